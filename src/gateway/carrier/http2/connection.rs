//! HTTP/2 with the client: one connection and its streams, all in one task.
//!
//! Framing, flow control and header compression are the `h2` crate's; what is decided about a request, and the way to
//! a worker, are those of HTTP/1. A stream beyond the connection's first counts as another connection does.

use super::budget::Charged;
use super::counted::Counted;
use super::shared::{Shared, StreamEnd};
use super::stall::Stall;
use super::stream;
use crate::gateway::downstream::connection::Connection;
use crate::gateway::downstream::connections::ConnectionGuard;
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::downstream::http2_settings::{
    CONNECTION_WINDOW, MAX_STREAMS, SEND_BUFFER, STREAM_WINDOW, header_list_size,
};
use crate::gateway::exchange::admission;
use crate::gateway::exchange::session_carrier::SessionCarrier;
use crate::gateway::places::Place;
use crate::gateway::rules::{Rules, SharedRules};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use pingora_core::protocols::{Digest, Stream};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;

/// Requests that a client may reset before their answer whatever their share. Beyond, more than half of all is an
/// attack.
const MAX_RESETS: u64 = 100;
/// Streams of a connection that its client may get wrong, heads that are too long among them: to decode one that refers to
/// the table of fields costs a thousand times what it costs to send it.
const MAX_STREAM_ERRORS: usize = 256;
/// With requests open, a client that is silent is asked whether it is there, this often; it has as long to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// For a client without requests to answer the PING of the first GOAWAY; and for it to take the last one.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type StreamFuture = Pin<Box<dyn Future<Output = StreamEnd> + Send>>;

/// Serves a connection whose client speaks HTTP/2, to its end.
///
/// `peers` serves streams whose workers speak HTTP/2, too.
pub(in crate::gateway) async fn serve(rules: SharedRules, connection: Connection, peers: Arc<dyn SessionCarrier>) {
    let Some(Connection { client, stream, mut guard, tls, .. }) = connection.rewound() else { return };
    guard.set_movable(false);
    let now = rules.load_full();
    let digest = Arc::new(digest_of(&stream));
    let (stream, written) = Counted::new(stream);
    let handshake = timeout(now.limits.head_timeout, builder(&now).handshake::<Counted, Charged>(stream));
    let Ok(Ok(connection)) = handshake.await else { return };
    let registry = guard.registry().clone();
    let shared = Shared { rules, registry, client, tls, peers, digest, budget: Arc::default(), written };
    let mut server = Server::new(connection, shared, guard, now.limits.head_timeout);
    drop(now);
    std::future::poll_fn(|cx| server.poll(cx)).await;
}

fn digest_of(stream: &Stream) -> Digest {
    Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    }
}

fn builder(rules: &Rules) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS))
        .max_header_list_size(header_list_size(rules.limits.head_bytes));
    builder
}

struct Server {
    connection: server::Connection<Counted, Charged>,
    streams: FuturesUnordered<StreamFuture>,
    shared: Shared,
    guard: ConnectionGuard,
    phase: Phase,
    accepted: u64,
    resets: u64,
    /// How long it may be without a request.
    idle_timeout: Duration,
    idle: Deadline,
    /// How many bytes the client had taken at the last look.
    seen: u64,
    stall: Stall,
    ping: Option<PingPong>,
    ping_deadline: Deadline,
    ping_sent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// The client was asked to open no more streams. Until it has answered the PING that follows the GOAWAY, requests may be
    /// on their way, and are served. Then a last GOAWAY names the last stream, and the `h2` crate closes when none is open.
    GoingAway,
    /// It has not answered the PING: the last GOAWAY is sent without.
    Closing,
}

impl Server {
    fn new(
        mut connection: server::Connection<Counted, Charged>,
        shared: Shared,
        guard: ConnectionGuard,
        idle_timeout: Duration,
    ) -> Server {
        let ping = connection.ping_pong();
        Server {
            connection,
            streams: FuturesUnordered::new(),
            shared,
            guard,
            phase: Phase::Serving,
            accepted: 0,
            resets: 0,
            idle_timeout,
            idle: Deadline::default(),
            seen: 0,
            stall: Stall::default(),
            ping,
            ping_deadline: Deadline::default(),
            ping_sent: false,
        }
    }

    /// Ready when the connection is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.guard.watch(cx);
        if self.guard.must_go_away() {
            self.go_away();
        }
        loop {
            let streams = self.poll_streams(cx);
            match self.poll_accept(cx) {
                Poll::Ready(true) => continue,
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending if streams => continue,
                Poll::Pending => break,
            }
        }
        if self.stall.poll(cx, &self.shared).is_ready() {
            log::debug!("an HTTP/2 client does not take its answers");
            return Poll::Ready(());
        }
        if self.poll_idle(cx).is_ready() || self.poll_ping(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn go_away(&mut self) {
        if self.phase == Phase::Serving {
            self.phase = Phase::GoingAway;
            self.connection.graceful_shutdown();
            self.idle.clear();
        }
    }

    /// Runs the streams; whether any ended.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> bool {
        let mut ended = false;
        while let Poll::Ready(Some(end)) = self.streams.poll_next_unpin(cx) {
            ended = true;
            self.resets += u64::from(end.was_reset);
            if self.resets > MAX_RESETS && self.resets * 2 > self.accepted {
                log::debug!("an HTTP/2 client resets too many of its requests");
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
        }
        ended
    }

    /// Drives the connection, and takes a new request: `false` when the connection has ended.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                self.accept(request, respond);
                Poll::Ready(true)
            }
            Poll::Ready(Some(Err(error))) => {
                log::debug!("an HTTP/2 connection ended: {error}");
                Poll::Ready(false)
            }
            Poll::Ready(None) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Charged>) {
        self.accepted += 1;
        let rules = self.shared.rules.load_full();
        let mut place = None;
        if !self.streams.is_empty() {
            let account = self.guard.client().map(Place::account);
            place = admission::stream(&rules, &self.shared.registry, account.as_ref());
            if place.is_none() {
                // The client may send it again, here or elsewhere (RFC 9113, section 8.7).
                self.shared.registry.descriptors().note_refusal();
                return respond.send_reset(Reason::REFUSED_STREAM);
            }
        }
        self.idle_timeout = rules.limits.keepalive_timeout;
        self.idle.clear();
        let shared = self.shared.clone();
        self.streams.push(Box::pin(async move {
            let end = stream::serve(rules, shared, request, respond).await;
            drop(place);
            end
        }));
    }

    /// Ready when a connection without requests has had its time.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.streams.is_empty() {
            return Poll::Pending;
        }
        // Answers that are done here may still be on their way to a slow client.
        let written = self.shared.written.load(Ordering::Relaxed);
        if self.connection.has_streams() {
            if written != std::mem::replace(&mut self.seen, written) {
                self.idle.clear();
            }
            return self.idle.poll(cx, self.shared.rules.load().limits.body_timeout);
        }
        let limit = if self.phase == Phase::Serving { self.idle_timeout } else { CLOSE_TIMEOUT };
        ready!(self.idle.poll(cx, limit));
        match self.phase {
            Phase::Serving => self.go_away(),
            Phase::GoingAway => {
                self.phase = Phase::Closing;
                self.idle.clear();
                // Without it the client could not know that a request on its way is not carried out, and may be sent again.
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
            }
            Phase::Closing => return Poll::Ready(()),
        }
        // The frame must be written.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when a client with open requests does not answer.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        if self.ping_sent {
            match ping.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.ping_sent = false;
                    self.ping_deadline.clear();
                }
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if self.streams.is_empty() && !self.connection.has_streams() && !self.ping_sent {
            self.ping_deadline.clear();
            return Poll::Pending;
        }
        if self.ping_deadline.poll(cx, PING_INTERVAL).is_ready() {
            if self.ping_sent {
                log::debug!("an HTTP/2 client does not answer a PING");
                return Poll::Ready(());
            }
            self.ping_sent = ping.send_ping(Ping::opaque()).is_ok();
            self.ping_deadline.clear();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
