// GET /orphan?s=5 leaves a process without a parent: its pid is the answer. It ends after so many seconds, or on
// SIGTERM with exit code 7.
const { execFileSync } = require('node:child_process');
const http = require('node:http');
const answerPid = require('./pid.js');

const life = 'trap "exit 7" TERM; n=$1; while [ $n -gt 0 ]; do sleep 0.1; n=$((n - 1)); done';

http
  .createServer((req, res) => {
    if (answerPid(req, res)) return;
    const tenths = Math.round(10 * Number(new URL(req.url, 'http://x').searchParams.get('s') ?? 0));
    // A session of its own, so that it outlives its worker too.
    res.end(execFileSync('sh', ['-c', 'setsid sh -c "$0" orphan "$1" >/dev/null 2>&1 & echo $!', life, String(tenths)]));
  })
  .listen(process.env.PORT ?? 3000);
