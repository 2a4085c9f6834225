// Where most apps listen.
require('./serve.js').listen(Number(process.env.PORT) || 8080);
