//! Owns each client connection: reads request heads with a deadline and a limit, checks their
//! framing, and hands every request on: plain HTTP/1 to our own path, a WebSocket upgrade to the
//! tunnel, and a whole HTTP/2 connection to Pingora.

use super::answer::Answer;
use super::forward::{self, Conn};
use super::http1::Progress;
use super::http1::head::{self, Head};
use super::parcel::{self, Contents, Parcel};
use super::phase::{House, Phase, Standing};
use super::proxy::Proxy;
use super::{Frozen, Rules, tunnel};
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::l4::stream::Stream as L4Stream;
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
/// Between two looks at whether connections are open.
const EMPTY_LOOK: Duration = Duration::from_millis(20);

/// Lends the thread's read buffer for one poll.
pub(super) fn with_scratch<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// For the first request of a connection that was just accepted, when idle connections end.
const FIRST_REQUEST: Duration = Duration::from_millis(200);
/// For the successor to take one connection.
const GIVE_LIMIT: Duration = Duration::from_secs(10);

/// The application that serves every listener. A clone serves with the same connections and the same phase.
#[derive(Clone)]
pub(crate) struct Front {
    rules: Rules,
    proxy: Arc<HttpProxy<Proxy>>,
    house: Arc<House>,
    /// Clients may speak HTTP/2 without TLS, from their first byte.
    h2c: bool,
}

/// What a client says first that speaks HTTP/2 (RFC 9113, section 3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why no request came.
enum NoRequest {
    /// The client left, or stayed idle for too long: nothing to say.
    Gone,
    /// Something to say before the connection closes.
    Refused(Answer),
    /// The connection is to go to another process.
    Moves,
    /// It has begun to speak HTTP/2.
    Http2,
}

/// What a wait for more of a request came to.
enum Waited {
    Read(io::Result<usize>),
    Late,
    Moves,
}

impl Front {
    pub(super) fn new(rules: Rules, mut proxy: HttpProxy<Proxy>, house: Arc<House>) -> Front {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(rules.load().limits.keepalive_timeout);
        proxy.server_options = Some(options);
        Front { rules, proxy: Arc::new(proxy), house, h2c: false }
    }

    /// The same front for listeners that also take HTTP/2 without TLS.
    pub(crate) fn with_h2c(&self) -> Front {
        Front { h2c: true, ..self.clone() }
    }

    /// Tells every connection what becomes of it. Costs a request nothing.
    pub(crate) fn enter(&self, phase: Phase) {
        self.house.enter(phase);
    }

    /// Ends when no connection is open. One that is being accepted counts a moment later.
    pub(crate) async fn emptied(&self) {
        let open = self.house.open();
        let mut empty = 0;
        while empty < 2 {
            empty = if open.load(Ordering::Acquire) == 0 { empty + 1 } else { 0 };
            tokio::time::sleep(EMPTY_LOOK).await;
        }
    }

    /// Stops every tunnel that can be moved, where it stands, and gives it out: to go on here ([`Frozen::thaw`]) or
    /// in another process ([`Frozen::portable`], [`Front::adopt`]). Those over TLS stay, those in their farewell, and
    /// those that do not stop within `limit`.
    pub(crate) async fn freeze(&self, limit: Duration) -> Vec<Frozen> {
        self.house.freeze(limit).await
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules.clone()
    }

    pub(super) fn house(&self) -> &Arc<House> {
        &self.house
    }

    /// Open client connections.
    pub(crate) fn connections(&self) -> Arc<AtomicUsize> {
        self.house.open()
    }

    /// Waits for a whole request head. The wait for its first byte is `idle`; from there the
    /// whole head has `head_timeout`, however it trickles in.
    async fn next_head(&self, conn: &mut Conn, idle: Duration, first: bool) -> Result<Head, NoRequest> {
        if conn.admission.standing() == Standing::Moves {
            return Err(NoRequest::Moves);
        }
        let gateway = self.rules.load_full();
        let limits = &gateway.limits;
        let mut scanned = 0;
        // A move does not make a wait longer.
        let most = if conn.ahead.is_empty() { idle } else { limits.head_timeout };
        let left = conn.left.take().map(|left| left.min(most));
        let mut begun = left.is_some() && !conn.ahead.is_empty();
        match left {
            Some(left) => conn.alarm.resume(left),
            None => conn.alarm.clear(),
        }
        loop {
            if !conn.ahead.is_empty() {
                if let Some(prefix) = conn.ahead.get(..H2_PREFACE.len())
                    && conn.greeting
                    && prefix == H2_PREFACE
                {
                    return Err(NoRequest::Http2);
                }
                conn.greeting &= H2_PREFACE.starts_with(&conn.ahead);
                if !conn.greeting {
                    match head::check(&conn.ahead, scanned, &gateway.head_limits) {
                        Ok(Progress::Complete(head)) => return Ok(head),
                        Ok(Progress::Partial { scanned: so_far }) => scanned = so_far,
                        Err(reject) => {
                            return Err(NoRequest::Refused(Answer { status: reject.status, detail: reject.reason }));
                        }
                    }
                }
                if !begun {
                    begun = true;
                    conn.alarm.clear();
                }
            }
            let limit = if begun { limits.head_timeout } else { idle };
            match std::future::poll_fn(|cx| wait(conn, cx, limit, begun, first)).await {
                Waited::Read(Ok(n)) if n > 0 => {}
                Waited::Moves => {
                    conn.left = conn.alarm.left();
                    return Err(NoRequest::Moves);
                }
                Waited::Late if begun => return Err(NoRequest::Refused(Answer::HEAD_TIMEOUT)),
                _ => return Err(NoRequest::Gone),
            }
        }
    }

    /// Serves a connection from its first request, or from between two, to its end.
    pub(super) async fn serve(&self, mut conn: Conn, mut idle: Duration) {
        let mut first = true;
        loop {
            let head = match self.next_head(&mut conn, idle, first).await {
                Ok(head) => head,
                Err(NoRequest::Gone) => return,
                Err(NoRequest::Refused(answer)) => return answer_and_close(conn.stream, answer).await,
                Err(NoRequest::Http2) => return self.serve_h2(conn).await,
                Err(NoRequest::Moves) => match Box::pin(give(&mut conn, idle)).await {
                    true => return,
                    false => continue,
                },
            };
            // The rules may change between two requests, never during one.
            let gateway = self.rules.load_full();
            let host = host(&head, &conn.ahead);
            let Some(app) = gateway.routes.find(host, head.target.of(&conn.ahead)) else {
                return answer_and_close(conn.stream, Answer::NO_ROUTE).await;
            };
            let app = &gateway.apps[app];
            if head.websocket {
                return tunnel::upgrade(&gateway, app, conn, &head).await;
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
            first = false;
        }
    }

    /// Hands a connection to Pingora for good, with what was read of it.
    async fn serve_h2(&self, conn: Conn) {
        let Conn { stream, ahead, admission, .. } = conn;
        // Only a plain stream is looked into for HTTP/2, so it is one of this type.
        let Ok(mut plain) = stream.into_any().downcast::<L4Stream>() else { return };
        plain.rewind(&ahead);
        drop(ahead);
        ServerApp::process_new(&self.proxy, plain, &self.house.closing()).await;
        drop(admission);
    }
}

/// More of the next request, or why it is not waited for any longer.
fn wait(conn: &mut Conn, cx: &mut Context<'_>, limit: Duration, begun: bool, first: bool) -> Poll<Waited> {
    conn.admission.watch(cx);
    if let Poll::Ready(read) = fill(conn, cx) {
        return Poll::Ready(Waited::Read(read));
    }
    match conn.admission.standing() {
        Standing::Moves => return Poll::Ready(Waited::Moves),
        // Who has just come is about to speak.
        Standing::Closed if !begun && (!first || conn.pulse.poll(cx, FIRST_REQUEST).is_ready()) => {
            return Poll::Ready(Waited::Late);
        }
        _ => {}
    }
    conn.alarm.poll(cx, limit).map(|()| Waited::Late)
}

/// Sends a connection between two requests to another process. `false`: it goes on here, and ends here if nobody
/// takes it.
async fn give(conn: &mut Conn, idle: Duration) -> bool {
    let Some(mover) = conn.admission.mover() else { return false };
    let parcel = || -> io::Result<Parcel> {
        let fd = parcel::descriptor(&conn.stream)?.try_clone_to_owned()?;
        let contents = Contents::Connection(parcel::Connection {
            peer: parcel::peer(&conn.stream),
            greeting: conn.greeting,
            idle_ms: parcel::millis(idle),
            left_ms: conn.left.map(parcel::millis),
        });
        Ok(Parcel { bytes: contents.pack(&[&conn.ahead])?, fds: vec![fd] })
    };
    let given = match parcel() {
        // What stays here is dropped, not closed: the descriptor that was sent is the same connection.
        Ok(parcel) => timeout(GIVE_LIMIT, mover.send(parcel)).await.is_ok_and(|sent| sent.is_ok()),
        Err(error) => {
            log::warn!("a connection cannot be moved: {error}");
            false
        }
    };
    if !given {
        conn.admission.stay();
    }
    given
}

#[async_trait]
impl ServerApp for Front {
    /// When a connection is to end is told by [`Front::enter`] alone.
    async fn process_new(self: &Arc<Self>, stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        let limits = self.rules.load();
        let Some(admission) = self.house.admit(limits.limits.connections) else {
            log::debug!("connection limit reached");
            return None;
        };
        let head_timeout = limits.limits.head_timeout;
        drop(limits);
        if matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            let _admission = admission;
            return ServerApp::process_new(&self.proxy, stream, &self.house.closing()).await;
        }
        let mut conn = Conn::new(Client::of(&stream), stream, admission);
        conn.greeting = self.h2c && !conn.client.secure;
        self.serve(conn, head_timeout).await;
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
    pub(super) fn of(stream: &Stream) -> Client {
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
pub(super) async fn answer_and_close(stream: Stream, answer: Answer) {
    say_and_close(stream, &answer.message()).await;
}

/// Sends a whole message, then closes.
pub(super) async fn say_and_close(mut stream: Stream, message: &[u8]) {
    let sent = timeout(LINGER_TIME, async {
        stream.write_all(message).await?;
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
