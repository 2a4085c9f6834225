const { parentPort, threadId } = require('worker_threads');

const fib = n => (n < 2 ? n : fib(n - 1) + fib(n - 2));
parentPort.on('message', ({ id, n }) => parentPort.postMessage({ id, result: fib(n), thread: threadId }));
