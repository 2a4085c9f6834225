// Apps with several servers, by the name in the first argument. Each says who it is.
const { fork, spawn } = require('node:child_process');
const http = require('node:http');
const { Worker, isMainThread, workerData } = require('node:worker_threads');
const answerPid = require('./pid.js');

const serve = (name, port, then) =>
  http
    .createServer((req, res) => answerPid(req, res) || res.end(`${name} of ${process.pid}`))
    .listen(port, then);
const get = port =>
  new Promise((resolve, reject) => {
    http.get({ port, host: '127.0.0.1', agent: false }, res => {
      let text = '';
      res.on('data', data => (text += data)).on('end', () => resolve(text));
    }).on('error', reject);
  });

const apps = {
  // As Next.js 13.4 starts its render processes: they listen on any port, tell it, and the app passes requests on.
  helper() {
    const helper = fork(__filename, ['help']);
    helper.on('message', port => {
      http.createServer((req, res) => {
        if (answerPid(req, res)) return;
        get(port).then(text => res.end(`app, ${text}`), error => res.writeHead(502).end(error.message));
      }).listen(3000);
    });
  },
  help() {
    const server = serve('helper', 0, () => process.send(server.address().port));
    process.on('disconnect', () => process.exit());
  },
  // A race for which one is first.
  two() {
    const metrics = Number(process.env.METRICS);
    const starts = [() => serve('api', Number(process.env.API ?? 3000)), () => serve('metrics', metrics)];
    if (Number(process.env.NODE_APP_INSTANCE) % 2 === 1) starts.reverse();
    starts[0]();
    setTimeout(starts[1], 200);
  },
  // Workers that are not alike: every second one has a server more.
  unlike() {
    serve('api', 3000);
    if (Number(process.env.NODE_APP_INSTANCE) % 2 === 1) serve('metrics', Number(process.env.METRICS));
  },
  // A launcher that says something before there is an app, as pm2-runtime and nodemon do.
  launcher() {
    process.send({ type: 'launched' });
    const child = spawn(process.execPath, [__filename, 'plain'], { stdio: 'inherit' });
    process.on('SIGTERM', () => child.kill());
    child.on('exit', () => process.exit());
  },
  plain: () => serve('api', 3000),
  // Whoever ends the other's control channel: nobody.
  threads() {
    serve('api', 3000);
    new Worker(__filename, { workerData: 'thread' });
  },
  // NODE_OPTIONS of its own, as in "start": "NODE_OPTIONS=--max-old-space-size=512 node server.js".
  unreached() {
    const env = { ...process.env, NODE_OPTIONS: '--max-old-space-size=512', PORT: process.env.METRICS };
    const child = spawn(process.execPath, [__filename, 'alone'], { stdio: 'inherit', env });
    process.on('SIGTERM', () => child.kill());
    child.on('exit', () => process.exit());
  },
  alone: () => serve('api', Number(process.env.PORT)),
};

if (isMainThread) apps[process.argv[2]]();
else if (workerData === 'thread') serve('thread', 4000);
