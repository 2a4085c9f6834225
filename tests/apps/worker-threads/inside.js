// The server itself is in a thread; the main thread only watches it.
const { Worker, isMainThread, threadId } = require('worker_threads');

if (isMainThread) {
  const worker = new Worker(__filename);
  worker.on('exit', code => process.exit(code));
} else {
  const fib = n => (n < 2 ? n : fib(n - 1) + fib(n - 2));
  require('http')
    .createServer((request, response) => {
      const n = Number(new URL(request.url, 'http://zoo').searchParams.get('n') ?? 10);
      response.setHeader('content-type', 'application/json');
      response.end(JSON.stringify({ result: fib(n), inThread: threadId > 0 }));
    })
    .listen(process.env.PORT || 3000);
}
