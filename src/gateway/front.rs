//! Owns each client connection: reads request heads with a deadline and a limit, checks their
//! framing, and hands every request on: plain HTTP/1 to our own path, a WebSocket upgrade to the
//! tunnel, and a whole HTTP/2 connection to Pingora.

use super::answer::Answer;
use super::forward::{self, Conn};
use super::http1::Progress;
use super::http1::head::{self, Head};
use super::proxy::Proxy;
use super::{Rules, tunnel};
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// Bytes read at once from a client or a worker.
const SCRATCH: usize = 16 * 1024;
/// How much of a refused request is read, and for how long, so that its answer is not lost in a reset.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// Lends the thread's read buffer for one poll.
pub(super) fn with_scratch<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// What becomes of the connections.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Open,
    Leaving,
    Closed,
}

/// The application that serves every listener.
#[derive(Clone)]
pub(crate) struct Front {
    rules: Rules,
    proxy: Arc<HttpProxy<Proxy>>,
    open: Arc<AtomicUsize>,
    /// Clients may speak HTTP/2 without TLS, from their first byte.
    h2c: bool,
}

/// What a client says first that speaks HTTP/2 (RFC 9113, section 3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One open connection, counted until it ends.
pub(crate) struct Admission(Arc<AtomicUsize>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why no request came.
enum NoRequest {
    /// The client left, or stayed idle for too long: nothing to say.
    Gone,
    /// Something to say before the connection closes.
    Refused(Answer),
}

impl Front {
    pub(crate) fn new(rules: Rules, mut proxy: HttpProxy<Proxy>) -> Front {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(rules.load().limits.keepalive_timeout);
        proxy.server_options = Some(options);
        Front { rules, proxy: Arc::new(proxy), open: Arc::default(), h2c: false }
    }

    /// The same front for listeners that also take HTTP/2 without TLS.
    pub(crate) fn with_h2c(&self) -> Front {
        let (rules, proxy, open) = (self.rules.clone(), self.proxy.clone(), self.open.clone());
        Front { rules, proxy, open, h2c: true }
    }

    pub(crate) fn enter(&self, _phase: Phase) {}

    /// Ends when no connection is open. One that is being accepted counts a moment later.
    pub(crate) async fn emptied(&self) {
        while self.open.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether a client begins with HTTP/2. Waits for its first 24 bytes, which every request has.
    async fn speaks_h2(&self, stream: &mut Stream) -> io::Result<bool> {
        if !self.h2c {
            return Ok(false);
        }
        let limit = self.rules.load().limits.head_timeout;
        let mut first = [0; H2_PREFACE.len()];
        timeout(limit, stream.try_peek(&mut first)).await.map_err(io::Error::from)??;
        Ok(&first == H2_PREFACE)
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules.clone()
    }

    /// Open client connections.
    pub(crate) fn connections(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }

    fn admit(&self) -> Option<Admission> {
        let admission = Admission(self.open.clone());
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        (before < self.rules.load().limits.connections).then_some(admission)
    }

    /// Waits for a whole request head. The wait for its first byte is `idle`; from there the
    /// whole head has `head_timeout`, however it trickles in.
    async fn next_head(&self, conn: &mut Conn, idle: Duration) -> Result<Head, NoRequest> {
        let gateway = self.rules.load_full();
        let limits = &gateway.limits;
        let mut scanned = 0;
        let mut begun = false;
        conn.alarm.clear();
        loop {
            if !conn.ahead.is_empty() {
                match head::check(&conn.ahead, scanned, &gateway.head_limits) {
                    Ok(Progress::Complete(head)) => return Ok(head),
                    Ok(Progress::Partial { scanned: so_far }) => scanned = so_far,
                    Err(reject) => {
                        return Err(NoRequest::Refused(Answer { status: reject.status, detail: reject.reason }));
                    }
                }
                if !begun {
                    begun = true;
                    conn.alarm.clear();
                }
            }
            let limit = if begun { limits.head_timeout } else { idle };
            let read = std::future::poll_fn(|cx| match fill(conn, cx) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => conn.alarm.poll(cx, limit).map(|()| None),
            });
            let read = read.await;
            match read {
                Some(Ok(n)) if n > 0 => {}
                None if begun => return Err(NoRequest::Refused(Answer::HEAD_TIMEOUT)),
                _ => return Err(NoRequest::Gone),
            }
        }
    }

    async fn serve(&self, stream: Stream, admission: Admission) {
        let mut conn = Conn::new(Client::of(&stream), stream);
        let mut idle = self.rules.load().limits.head_timeout;
        loop {
            let head = match self.next_head(&mut conn, idle).await {
                Ok(head) => head,
                Err(NoRequest::Gone) => return,
                Err(NoRequest::Refused(answer)) => return answer_and_close(conn.stream, answer).await,
            };
            // The rules may change between two requests, never during one.
            let gateway = self.rules.load_full();
            let host = host(&head, &conn.ahead);
            let Some(app) = gateway.routes.find(host, head.target.of(&conn.ahead)) else {
                return answer_and_close(conn.stream, Answer::NO_ROUTE).await;
            };
            let app = &gateway.apps[app];
            if head.websocket {
                return tunnel::upgrade(&gateway, app, conn, &head, admission).await;
            }
            let keep_alive = head.keep_alive;
            match forward::forward(&gateway, app, conn, &head).await {
                Some(same) if keep_alive => conn = same,
                _ => return,
            }
            if conn.ahead.is_empty() {
                // An idle connection holds no buffer.
                conn.ahead = BytesMut::new();
            }
            idle = gateway.limits.keepalive_timeout;
        }
    }
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let Some(admission) = self.admit() else {
            log::debug!("connection limit reached");
            return None;
        };
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) || self.speaks_h2(&mut stream).await.ok()? {
            return ServerApp::process_new(&self.proxy, stream, shutdown).await;
        }
        self.serve(stream, admission).await;
        None
    }

    async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

/// The host that an HTTP/1 request is for; empty where an old client names none.
pub(super) fn host<'a>(head: &Head, buf: &'a [u8]) -> &'a [u8] {
    head.host.map_or(b"", |host| host.of(buf))
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) secure: bool,
}

impl Client {
    fn of(stream: &Stream) -> Client {
        let digest = stream.get_socket_digest();
        let peer = digest.as_ref().and_then(|digest| digest.peer_addr());
        let ip = peer.and_then(|addr| addr.as_inet()).map(|addr| addr.ip());
        Client { ip, secure: stream.get_ssl_digest().is_some() }
    }
}

/// Reads more from the client. An idle connection holds no buffer: bytes land in the thread's
/// scratch first. Ready with how many came, 0 at the end of the stream.
fn fill(conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(&mut conn.stream).poll_read(cx, &mut read))?;
        conn.ahead.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// Sends an answer, then closes.
pub(super) async fn answer_and_close(mut stream: Stream, answer: Answer) {
    let sent = timeout(LINGER_TIME, async {
        stream.write_all(&answer.message()).await?;
        stream.flush().await
    });
    let sent: Result<io::Result<()>, _> = sent.await;
    if let Ok(Ok(())) = sent {
        close(stream).await;
    }
}

/// Closes so that what was sent arrives: data that nobody reads would turn the close into a reset,
/// which discards an answer on its way.
pub(super) async fn close(mut stream: Stream) {
    let farewell = async {
        stream.shutdown().await?;
        let mut discard = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut discard).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection ends here.
    let _ = timeout(LINGER_TIME, farewell).await;
}
