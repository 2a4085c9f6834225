// Starts, says so, and never listens.
console.log('never listening');
setInterval(() => {}, 60_000);
