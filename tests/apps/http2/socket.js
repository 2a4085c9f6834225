// The same server on the Unix socket that it is given.
require('./serve.js').listen(process.env.LISTEN);
