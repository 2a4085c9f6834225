//! WebSocket: from the upgrade request to the end of the tunnel.
//!
//! The upgrade is ours from its first byte. The head goes to the worker, the worker's answer goes
//! back; after a 101 the relay carries bytes both ways until both ends have finished.

pub(crate) mod frame;
mod relay;

pub(crate) use relay::Frozen;
pub(in crate::gateway) use relay::Relay;

use super::acquire::acquire;
use super::answer::Answer;
use super::forward::Conn;
use super::front::{Client, answer_and_close, host};
use super::http1::body::BodyScanner;
use super::http1::head::Head;
use super::http1::{Method, Progress, response};
use super::metrics::Failure;
use super::policy::{self, FORWARDED_HEADERS, Forwarded, Plan, RawHeaders};
use super::{App, Gateway, connect};
use crate::pool::{Lease, Member};
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How many workers an upgrade is offered to.
const MAX_TRIES: usize = 4;
/// What the client may send before its upgrade is answered, in bytes.
const EARLY_LIMIT: usize = 64 * 1024;

/// A worker's answer to an upgrade request.
struct Answered {
    worker: UnixStream,
    /// The answer's head and what came behind it.
    received: BytesMut,
    head: response::Head,
}

/// Serves one upgrade request, whose head begins `conn.ahead`, and the tunnel it opens.
pub(super) async fn upgrade(gateway: &Gateway, app: &App, conn: Conn, head: &Head) {
    let Conn { client, mut stream, mut ahead, admission, .. } = conn;
    let headers = RawHeaders { head, buf: &ahead };
    let plan = policy::plan(&app.pool.settings().affinity, head.target.of(&ahead), headers, client.ip, true, true);
    let request = rewrite(&ahead, head, client);
    let closing = || admission.house().is_closing();
    let outcome = offer(app, &plan, &request, &mut stream, &mut Early { bytes: BytesMut::new() }, closing).await;
    drop(plan);
    let (answered, lease, early) = match outcome {
        Ok(outcome) => outcome,
        Err(Refusal::Gone) => return app.metrics.failed(Failure::ClientGone),
        Err(Refusal::Answer(answer)) => {
            app.metrics.failed(match answer {
                Answer::BROKEN => Failure::WorkerDied,
                Answer::NO_ANSWER => Failure::NoAnswer,
                _ => Failure::NoWorker,
            });
            app.metrics.answered(answer.status, None);
            return answer_and_close(stream, answer).await;
        }
    };
    let mut to_worker = ahead.split_off(head.len);
    to_worker.unsplit(early);
    drop((ahead, request));
    let idle = gateway.limits.tunnel_idle_timeout;
    app.metrics.answered(answered.head.status, None);
    if answered.head.status == 101 {
        let relay = Relay::new(
            stream,
            answered.worker,
            (answered.received, answered.head.len),
            to_worker,
            idle,
            (lease, admission, app.metrics.tunnel()),
        );
        // Of its own task: what the front held for the connection's requests is freed now.
        tokio::spawn(relay.run());
    } else {
        pass_refusal(stream, answered, idle.min(app.response_timeout)).await;
    }
}

enum Refusal {
    /// The client has left.
    Gone,
    Answer(Answer),
}

/// What the client sent while its upgrade was under way.
struct Early {
    bytes: BytesMut,
}

/// Offers the upgrade to workers until one answers. A worker that cannot be reached, or that dies
/// before it answers, has no session to lose: another one is tried.
async fn offer(
    app: &App,
    plan: &Plan<'_>,
    request: &[u8],
    client: &mut Stream,
    early: &mut Early,
    closing: impl Fn() -> bool,
) -> Result<(Answered, Lease, BytesMut), Refusal> {
    let mut tried = Vec::new();
    let mut last = Answer::NO_WORKER;
    while tried.len() < MAX_TRIES {
        let lease = tokio::select! {
            biased;
            lease = acquire(&app.pool, plan, &tried, &closing) => lease,
            () = early.watch(client) => return Err(Refusal::Gone),
        };
        let Some(lease) = lease else { break };
        let attempt = timeout(app.response_timeout, ask(lease.member(), request));
        let attempt = tokio::select! {
            attempt = attempt => attempt,
            () = early.watch(client) => return Err(Refusal::Gone),
        };
        match attempt {
            Ok(Ok(answered)) => return Ok((answered, lease, std::mem::take(&mut early.bytes))),
            Err(_) => return Err(Refusal::Answer(Answer::NO_ANSWER)),
            // The owner lives, but its queue is full.
            Ok(Err(Failed::Connect(error))) if error.kind() == io::ErrorKind::TimedOut => break,
            Ok(Err(Failed::Connect(_))) => {}
            Ok(Err(Failed::Malformed(why))) => {
                log::warn!("{}: malformed answer to an upgrade: {why}", lease.member().id);
                return Err(Refusal::Answer(Answer::BROKEN));
            }
            Ok(Err(Failed::Died(_))) => last = Answer::BROKEN,
        }
        tried.push(lease.member().clone());
    }
    Err(Refusal::Answer(last))
}

impl Early {
    /// Reads what the client sends, up to a limit; ends when the client does.
    async fn watch(&mut self, client: &mut Stream) {
        while self.bytes.len() < EARLY_LIMIT {
            match client.read_buf(&mut self.bytes).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
        std::future::pending().await
    }
}

enum Failed {
    Connect(io::Error),
    /// The connection ended before a whole answer head came.
    Died(#[allow(dead_code)] Option<io::Error>),
    Malformed(&'static str),
}

/// Sends an upgrade request to a worker and reads the head of its answer.
async fn ask(worker: &Member, request: &[u8]) -> Result<Answered, Failed> {
    let died = |error| Failed::Died(Some(error));
    let mut worker = connect::connect(worker).await.map_err(Failed::Connect)?;
    worker.write_all(request).await.map_err(died)?;
    let mut received = BytesMut::with_capacity(512);
    let mut scanned = 0;
    loop {
        if worker.read_buf(&mut received).await.map_err(died)? == 0 {
            return Err(Failed::Died(None));
        }
        match response::check(&received, scanned, Method::Get) {
            Ok(Progress::Complete(head)) if is_final(head.status) => {
                return Ok(Answered { worker, received, head });
            }
            Ok(Progress::Complete(head)) => {
                // 100 Continue and its kind: the final answer follows.
                let _ = received.split_to(head.len);
                scanned = 0;
            }
            Ok(Progress::Partial { scanned: so_far }) => scanned = so_far,
            Err(malformed) => return Err(Failed::Malformed(malformed.reason)),
        }
    }
}

fn is_final(status: u16) -> bool {
    status == 101 || status >= 200
}

/// The request head as the worker gets it: the client's, but for what only the proxy may say.
fn rewrite(ahead: &[u8], head: &Head, client: Client) -> BytesMut {
    let mut out = BytesMut::with_capacity(head.len + 160);
    let mut line = |name: &[u8], value: &[u8]| {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    for (name, value) in head.headers(ahead) {
        if !FORWARDED_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes())) {
            line(name, value);
        }
    }
    let forwarded = Forwarded { client: client.ip, secure: client.secure, host: host(head, ahead) };
    forwarded.headers(|name, value| line(name.as_bytes(), value));
    out.extend_from_slice(b"\r\n");
    let mut request = BytesMut::with_capacity(head.len + out.len());
    request.extend_from_slice(b"GET ");
    request.extend_from_slice(head.target.of(ahead));
    request.extend_from_slice(b" HTTP/1.1\r\n");
    request.unsplit(out);
    request
}

/// Passes on an answer that is not a 101, as it is, and closes.
async fn pass_refusal(mut stream: Stream, mut answered: Answered, limit: Duration) {
    let pass = async {
        let head_len = answered.head.len;
        let mut out = Vec::with_capacity(head_len + 32);
        out.extend_from_slice(format!("HTTP/1.1 {} ", answered.head.status).as_bytes());
        out.extend_from_slice(answered.head.phrase.of(&answered.received));
        out.extend_from_slice(b"\r\n");
        for (name, value) in answered.head.headers(&answered.received) {
            if !name.eq_ignore_ascii_case(b"connection") && !name.eq_ignore_ascii_case(b"keep-alive") {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"Connection: close\r\n\r\n");
        stream.write_all(&out).await?;
        let mut body = answered.received.split_off(head_len);
        let mut framing = BodyScanner::new(answered.head.body);
        loop {
            let n = framing.advance(&body).map_err(|e| io::Error::other(e.reason))?;
            stream.write_all(&body[..n]).await?;
            body.clear();
            if framing.is_done() || answered.worker.read_buf(&mut body).await? == 0 {
                break;
            }
        }
        stream.flush().await?;
        stream.shutdown().await
    };
    // Cut short or not, both connections end here.
    let _: Result<io::Result<()>, _> = timeout(limit, pass).await;
}
