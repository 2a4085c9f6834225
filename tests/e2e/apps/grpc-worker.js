// A gRPC service on the socket that it is told (with TARGET=plain on PORT): echoes in every shape. Messages are bytes; what a call is to do stands in its metadata.
const grpc = require('@grpc/grpc-js');

const bytes = value => value;
const method = (path, requestStream, responseStream) => ({
  path, requestStream, responseStream, requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes,
});
const service = {
  unary: method('/echo.Echo/Unary', false, false),
  collect: method('/echo.Echo/Collect', true, false),
  spread: method('/echo.Echo/Spread', false, true),
  talk: method('/echo.Echo/Talk', true, true),
};
exports.service = service;

const text = (call, key) => call.metadata.get(key)[0]?.toString();
let cancelled = 0;

/** Metadata that says what arrived: initial with `x-pid`, trailing with `x-sum` and the bytes of `x-blob-bin`. */
function greet(call) {
  const initial = new grpc.Metadata();
  initial.set('x-pid', String(process.pid));
  initial.set('x-cancelled', String(cancelled));
  for (const key of ['x-forwarded-for', 'x-request', 'user-agent']) if (text(call, key)) initial.set(`x-saw-${key}`, text(call, key));
  initial.set('x-authority', call.getHost());
  if (Number.isFinite(call.getDeadline())) initial.set('x-left-ms', String(Math.round(call.getDeadline() - Date.now())));
  call.sendMetadata(initial);
  call.on('cancelled', () => (cancelled += 1));
  const trailing = new grpc.Metadata();
  trailing.set('x-sum', '42');
  const blob = call.metadata.get('x-blob-bin')[0];
  if (blob) trailing.set('x-blob-bin', blob);
  return trailing;
}

/** The error that the call asked for, if it did. */
function wanted(call, metadata) {
  const code = text(call, 'x-fail');
  return code && Object.assign(new Error('asked for'), { code: Number(code), details: 'not today: ä, %, ✓', metadata });
}

const handlers = {
  unary(call, done) {
    // Trailers alone: no initial metadata is sent.
    if (text(call, 'x-fail-at-once')) return done(Object.assign(new Error('asked for'), { code: grpc.status.PERMISSION_DENIED, details: 'at once' }));
    if (text(call, 'x-silent')) return;
    const trailing = greet(call);
    const ms = Number(text(call, 'x-wait') ?? 0);
    setTimeout(() => (call.cancelled ? undefined : done(wanted(call, trailing), call.request, trailing)), ms);
  },
  collect(call, done) {
    const trailing = greet(call);
    const all = [];
    call.on('data', message => all.push(message));
    call.on('end', () => done(wanted(call, trailing), Buffer.concat(all), trailing));
  },
  spread(call) {
    const trailing = greet(call);
    const count = Number(text(call, 'x-count'));
    let n = 0;
    const more = () => {
      while (n < count) if (!call.write(Buffer.concat([Buffer.from(`${++n}:`), call.request]))) return call.once('drain', more);
      const error = wanted(call, trailing);
      if (error) return call.emit('error', error);
      if (!text(call, 'x-hang')) call.end(trailing);
    };
    more();
  },
  talk(call) {
    const trailing = greet(call);
    call.on('data', message => {
      if (message.toString() === 'die') process.kill(process.pid, 'SIGKILL');
      call.write(message);
    });
    call.on('end', () => call.end(trailing));
    call.on('error', () => {});
  },
};

if (require.main === module) {
  const server = new grpc.Server({ 'grpc.max_receive_message_length': 16 << 20 });
  server.addService(service, handlers);
  const at = process.env.TARGET === 'plain' ? `127.0.0.1:${process.env.PORT}` : `unix:${process.argv[2]}`;
  server.bindAsync(at, grpc.ServerCredentials.createInsecure(), error => {
    if (error) throw error;
  });
}
