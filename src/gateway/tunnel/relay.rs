//! The open tunnel: one poll loop for both directions, no buffer held while nothing waits.

use super::frame::{CloseFrame, Tracker, close_frame};
use super::log::{Reason, TunnelLog};
use crate::gateway::downstream::connections::ConnectionGuard;
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::downstream::scratch::with_scratch;
use crate::gateway::exchange::transfer::Switched;
use crate::gateway::http1::Version;
use crate::gateway::metrics::counters::OpenTunnel;
use crate::gateway::migration::format;
use crate::gateway::request::heads::{self, Persistence};
use crate::gateway::request::request_id::RequestId;
use crate::pool::Lease;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// After one side has finished, the other gets at most this long without a byte.
const HALF_CLOSED_TIMEOUT: Duration = Duration::from_secs(60);
/// For a client to answer our Close frame and leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Reads of one direction in one go, so that a flood one way leaves room for the other.
const BURST: usize = 8;

/// Where in a window the next tunnel closes, from 0 to 1. Multiples of the golden ratio: however many close, they are spread
/// over all of it, where few at random may come together.
fn next_turn() -> f64 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    const RATIO: u32 = 0x9e37_79b9;
    f64::from(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(RATIO)) / f64::from(u32::MAX)
}

pub(in crate::gateway) struct Relay {
    pub(super) client: Stream,
    pub(super) worker: UnixStream,
    pub(super) to_client: Direction,
    pub(super) to_worker: Direction,
    pub(super) idle: Duration,
    pub(super) deadline: Deadline,
    pub(super) closing: CloseHandshake,
    /// This tunnel's entry with its worker.
    pub(super) key: Option<usize>,
    /// Which side ended first.
    pub(super) first: Option<Reason>,
    pub(super) ends: Ends,
}

/// What a tunnel holds until it ends.
pub(in crate::gateway) struct Ends {
    /// The worker carries this tunnel.
    pub(in crate::gateway) lease: Lease,
    /// The limits count it.
    pub(in crate::gateway) guard: ConnectionGuard,
    pub(in crate::gateway) _tunnel: OpenTunnel,
    /// For its line in the access log, if it is to have one.
    pub(in crate::gateway) log: Option<Box<TunnelLog>>,
}

/// One direction of a tunnel.
pub(super) struct Direction {
    /// Read and not yet written; holds memory only while the receiver is slower than the sender.
    pub(super) waiting: BytesMut,
    pub(super) unflushed: bool,
    pub(super) state: State,
    /// Bytes that came in this process.
    pub(super) read: u64,
    pub(super) frames: Tracker,
    /// To put in at the next frame boundary; the direction ends with it.
    pub(super) last: Option<CloseFrame>,
}

/// The closing handshake that the proxy begins, when the worker drains or the proxy stops.
pub(super) enum CloseHandshake {
    None,
    /// Asked for with this code, and begun once this has passed: so the clients do not all come back at once.
    After(Duration, u16, Deadline),
    /// The Close frames are on their way; the client gets this long to answer and leave.
    Said(Deadline),
}

/// Why a relay has stopped.
enum Turn {
    Ended,
    /// It is to pause or to move.
    YieldRequested,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// The sender has finished; what waits is still to be written.
    Ending,
    /// The receiver knows that nothing more comes.
    Ended,
}

impl Relay {
    /// Begins after a worker's 101, which names the request by `id`. `to_client` goes before it; `to_worker` has been read from the client already.
    pub(in crate::gateway) fn new(
        client: Stream,
        switched: Switched,
        mut to_client: BytesMut,
        to_worker: BytesMut,
        idle: Duration,
        ends: Ends,
        id: &RequestId,
    ) -> Box<Relay> {
        let Switched { worker, head, received } = switched;
        to_client.reserve(received.len() + 64);
        heads::response_to_http1(&head, &received, Version::Http11, Persistence::Close, id, None, &mut to_client);
        let frames = &received[head.len..];
        to_client.extend_from_slice(frames);
        let direction = |waiting: BytesMut, fed: &[u8]| {
            let mut frames = Tracker::new();
            frames.feed(fed);
            Direction { waiting, unflushed: false, state: State::Open, read: fed.len() as u64, frames, last: None }
        };
        let to_client = direction(to_client, frames);
        let fed = to_worker.clone();
        Box::new(Relay {
            client,
            worker,
            to_client,
            to_worker: direction(to_worker, &fed),
            idle,
            deadline: Deadline::default(),
            closing: CloseHandshake::None,
            key: None,
            first: None,
            ends,
        })
    }

    /// Ends when both sides have finished, when one breaks, when both are silent for too long, or when the tunnel is
    /// to go on elsewhere.
    pub(in crate::gateway) async fn run(mut self: Box<Self>) {
        let mut entered = false;
        loop {
            let turn = std::future::poll_fn(|cx| {
                if !std::mem::replace(&mut entered, true) {
                    self.enter(cx);
                }
                self.poll(cx)
            });
            match turn.await {
                Err(error) => {
                    log::debug!("tunnel ended: {error}");
                    let is_idle = error.kind() == io::ErrorKind::TimedOut;
                    return self.log_end(if is_idle { Reason::Idle } else { Reason::Broken });
                }
                Ok(Turn::Ended) => {
                    let reason = self.first.unwrap_or(Reason::Closed);
                    return self.log_end(reason);
                }
                Ok(Turn::YieldRequested) if self.ends.guard.is_pausing() => match self.pause() {
                    Ok(()) => return,
                    Err(stays) => self = stays,
                },
                // Of its own place in memory: hardly any tunnel ever needs it.
                Ok(Turn::YieldRequested) if Box::pin(self.give()).await => {
                    // Another process writes it.
                    self.ends.log = None;
                    return;
                }
                Ok(Turn::YieldRequested) => {}
            }
        }
    }

    /// Says which task is to be woken. It may be another one than before.
    fn enter(&mut self, cx: &mut Context<'_>) {
        self.ends
            .guard
            .set_movable(format::can_carry_tunnel(&self.client) && !matches!(self.closing, CloseHandshake::Said(_)));
        self.ends.guard.rewatch(cx);
        self.ends.guard.count_tunnel();
        let tunnels = &self.ends.lease.member().tunnels;
        match self.key {
            Some(key) => tunnels.rewatch(key, cx.waker()),
            None => self.key = Some(tunnels.enter(cx.waker().clone(), self.ends.lease.room())),
        }
    }

    /// Ends both directions with a Close frame once this tunnel's turn has come.
    fn start_closing(&mut self, cx: &mut Context<'_>) {
        if let CloseHandshake::None = self.closing
            && let Some(asked) = self.key.and_then(|key| self.ends.lease.member().tunnels.asked(key))
        {
            let turn = asked.window.mul_f64(next_turn());
            self.closing = CloseHandshake::After(turn, asked.code, Deadline::default());
        }
        if let CloseHandshake::After(turn, code, deadline) = &mut self.closing
            && deadline.poll(cx, *turn).is_ready()
        {
            self.ends.guard.stay();
            self.first.get_or_insert(Reason::Closed);
            self.to_client.last = Some(close_frame(*code, "", None));
            self.to_worker.last = Some(close_frame(*code, "", Some(fastrand::u32(..).to_ne_bytes())));
            self.closing = CloseHandshake::Said(Deadline::default());
        }
    }

    /// Which side has begun to end the tunnel: by a Close frame, else by the end of its connection.
    fn note_first(&mut self) {
        let has_ended = |direction: &Direction| direction.state != State::Open || direction.frames.close_seen();
        if self.first.is_none() {
            self.first = match (has_ended(&self.to_worker), has_ended(&self.to_client)) {
                (true, _) => Some(Reason::Client),
                (false, true) => Some(Reason::Worker),
                (false, false) => None,
            };
        }
    }

    /// Writes the tunnel's line in the access log, once.
    fn log_end(&mut self, reason: Reason) {
        if let Some(log) = self.ends.log.take() {
            log.end(self.to_worker.read, self.to_client.read, reason);
        }
    }

    /// After our Close frame: reads on, so that the client's own does not meet a closed socket.
    fn client_left(&mut self, cx: &mut Context<'_>) -> bool {
        if self.to_worker.state != State::Ended {
            return false;
        }
        with_scratch(|scratch| {
            loop {
                let mut read = ReadBuf::new(scratch);
                match Pin::new(&mut self.client).poll_read(cx, &mut read) {
                    Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                    Poll::Ready(_) => return true,
                    Poll::Pending => return false,
                }
            }
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Turn>> {
        // First, so that what was asked for is known elsewhere, too.
        self.start_closing(cx);
        if self.ends.guard.must_yield() && self.is_flushed() && self.is_taken() {
            return Poll::Ready(Ok(Turn::YieldRequested));
        }
        let left = matches!(self.closing, CloseHandshake::Said(_)) && self.client_left(cx);
        if let CloseHandshake::Said(deadline) = &mut self.closing
            && (left || deadline.poll(cx, CLOSE_TIMEOUT).is_ready())
        {
            return Poll::Ready(Ok(Turn::Ended));
        }
        let mut moved = false;
        moved |= self.to_client.relay(cx, &mut self.worker, &mut self.client)?;
        moved |= self.to_worker.relay(cx, &mut self.client, &mut self.worker)?;
        self.note_first();
        let open = |direction: &Direction| direction.state != State::Ended;
        match (open(&self.to_client), open(&self.to_worker)) {
            // The client's answer to our Close frame is waited for, or its arrival would reset what we sent.
            (false, false) if matches!(self.closing, CloseHandshake::Said(_)) => return Poll::Pending,
            (false, false) => return Poll::Ready(Ok(Turn::Ended)),
            (true, true) => {}
            _ => self.idle = self.idle.min(HALF_CLOSED_TIMEOUT),
        }
        if moved {
            self.deadline.clear();
        }
        ready!(self.deadline.poll(cx, self.idle));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "silent for too long")))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.log_end(Reason::Stopped);
        if let Some(key) = self.key {
            self.ends.lease.member().tunnels.leave(key);
        }
    }
}

impl Direction {
    /// Moves what can be moved now. Says whether anything did; wakes the task when more can.
    fn relay<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> io::Result<bool>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        let mut moved = false;
        for _ in 0..BURST {
            match self.step(cx, from, to) {
                Poll::Ready(Ok(true)) => moved = true,
                Poll::Ready(Ok(false)) => return Ok(moved),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.flush(cx, to)?;
                    return Ok(moved);
                }
            }
        }
        // More may be ready: let the other direction and other tasks go first.
        self.flush(cx, to)?;
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    /// One read or write. `false`: this direction has ended.
    fn step<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<bool>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        if !self.waiting.is_empty() {
            let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.waiting.advance(n);
            if self.waiting.is_empty() {
                self.waiting = BytesMut::new();
            }
            return Poll::Ready(Ok(true));
        }
        if self.state == State::Open
            && let Some(frame) = self.last.take_if(|_| self.frames.at_frame_boundary() || self.frames.is_malformed())
        {
            if !self.frames.is_malformed() && !self.frames.close_seen() {
                self.waiting.extend_from_slice(&frame);
            }
            self.state = State::Ending;
            return Poll::Ready(Ok(true));
        }
        match self.state {
            State::Ended => Poll::Ready(Ok(false)),
            State::Ending => {
                ready!(Pin::new(to).poll_shutdown(cx))?;
                self.unflushed = false;
                self.state = State::Ended;
                Poll::Ready(Ok(true))
            }
            State::Open => with_scratch(|scratch| {
                let mut read = ReadBuf::new(scratch);
                match ready!(Pin::new(from).poll_read(cx, &mut read)) {
                    // Over TLS: the client has left without a word, as many do. WebSocket says its ends by itself.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                    read => read?,
                }
                let fresh = read.filled();
                if fresh.is_empty() {
                    self.state = State::Ending;
                    return Poll::Ready(Ok(true));
                }
                // With a Close frame to put in, nothing passes beyond the boundary it goes to.
                let fresh = match self.last {
                    Some(_) => &fresh[..self.frames.step(fresh)],
                    None => {
                        self.frames.feed(fresh);
                        fresh
                    }
                };
                let written = match Pin::new(to).poll_write(cx, fresh) {
                    Poll::Ready(n) => n?,
                    Poll::Pending => 0,
                };
                self.read += fresh.len() as u64;
                self.unflushed |= written > 0;
                self.waiting.extend_from_slice(&fresh[written..]);
                Poll::Ready(Ok(true))
            }),
        }
    }

    /// TLS keeps written bytes back until they are flushed.
    fn flush<W: AsyncWrite + Unpin + ?Sized>(&mut self, cx: &mut Context<'_>, to: &mut W) -> io::Result<()> {
        if self.unflushed
            && let Poll::Ready(done) = Pin::new(to).poll_flush(cx)
        {
            done?;
            self.unflushed = false;
        }
        Ok(())
    }
}
