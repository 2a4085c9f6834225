// GET /pid?ms=40 for the harness: which process answers, after a pause. Returns whether it answered.
module.exports = function answerPid(req, res) {
  if (!/^\/pid(\?|$)/.test(req.url)) return false;
  const ms = Number(new URL(req.url, 'http://x').searchParams.get('ms') ?? 0);
  const send = () => {
    res.setHeader('content-type', 'text/plain');
    res.end(String(process.pid));
  };
  if (ms > 0) setTimeout(send, ms);
  else send();
  return true;
};
