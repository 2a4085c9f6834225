'use strict';
/** A request of HTTP/1.1 in the likeness of HTTP/2's 'stream' event. */

/** Node.js ends a stream with the head of such an answer, as it does for HEAD. */
const WITHOUT_BODY = [204, 205, 304];
const HOP_BY_HOP = ['connection', 'host', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade'];

/**
 * One request as the 'stream' event of an http2 server gives it. A session in memory would be the real thing, but
 * Node 16 to 20 stalls on HTTP/2 over anything but a socket. What HTTP/1.1 has no word for is left out: pushes are not
 * allowed, priorities and settings do nothing.
 */
function emitStream(server, request, response) {
  const Duplex = require('stream').Duplex;
  const headers = {
    ':method': request.method,
    ':path': request.url,
    ':scheme': request.socket.encrypted ? 'https' : 'http',
    ':authority': request.headers.host,
  };
  for (const name of Object.keys(request.headers)) {
    if (HOP_BY_HOP.indexOf(name) < 0) headers[name] = request.headers[name];
  }
  const hasBody = Number(request.headers['content-length']) > 0 || request.headers['transfer-encoding'] !== undefined;
  /** @type {any} */
  const stream = new Duplex({
    read() {
      request.resume();
    },
    write(chunk, encoding, done) {
      if (!response.headersSent) stream.respond();
      if (response.writableEnded) done();
      else response.write(chunk, encoding, done);
    },
    final(done) {
      if (!response.headersSent) stream.respond();
      if (response.writableEnded) done();
      else response.end(done);
    },
    destroy(error, done) {
      if (!response.writableEnded) response.destroy();
      done(error);
    },
  });
  request.on('data', function (chunk) {
    if (!stream.push(chunk)) request.pause();
  });
  request.on('end', () => stream.push(null));
  request.pause();
  response.on('close', function () {
    if (response.writableFinished) return;
    stream.aborted = true;
    stream.emit('aborted');
    stream.destroy();
  });
  Object.defineProperty(stream, 'headersSent', { get: () => response.headersSent });
  Object.assign(stream, {
    id: 1,
    aborted: false,
    headRequest: request.method === 'HEAD',
    endAfterHeaders: !hasBody,
    pushAllowed: false,
    rstCode: 0,
    session: { socket: request.socket, encrypted: request.socket.encrypted, alpnProtocol: 'http/1.1' },
    respond(head, options) {
      const given = Object.assign({}, head);
      const status = given[':status'] || 200;
      for (const name of Object.keys(given)) if (name[0] === ':') delete given[name];
      stream.sentHeaders = Object.assign({ ':status': status }, given);
      response.writeHead(status, given);
      if (options && options.endStream) stream.end();
      else if (stream.headRequest || WITHOUT_BODY.includes(Number(status))) endWithHead();
      else response.flushHeaders();
    },
    respondWithFD(fd, head) {
      stream.respond(head);
      require('fs')
        .createReadStream(null, { fd: fd.fd || fd, autoClose: false })
        .pipe(stream);
    },
    respondWithFile(path, head) {
      const file = require('fs').createReadStream(path);
      file.once('open', () => stream.respond(head));
      file.on('error', (error) => stream.destroy(error));
      file.pipe(stream);
    },
    additionalHeaders() {},
    priority() {},
    pushStream(_head, options, callback) {
      const done = typeof options === 'function' ? options : callback;
      process.nextTick(
        done,
        Object.assign(new Error('HTTP/2 client has disabled push'), { code: 'ERR_HTTP2_PUSH_DISABLED' }),
      );
    },
    setTimeout(ms, callback) {
      request.setTimeout(ms, callback);
      return stream;
    },
    close(_code, callback) {
      if (typeof callback === 'function') stream.once('close', callback);
      stream.end();
    },
  });
  /** The app need not end the stream itself then, and whatever it writes goes nowhere. What it was sent can be read. */
  function endWithHead() {
    const close = () => stream.destroy();
    response.end(() => (hasBody && !stream.readableEnded ? stream.once('end', close) : close()));
  }

  server.emit('stream', stream, headers, hasBody ? 4 : 5, request.rawHeaders);
}

module.exports = { emitStream };
