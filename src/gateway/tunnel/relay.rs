//! The open tunnel: one poll loop for both directions, no buffer held while nothing waits.

mod portable;

pub(crate) use portable::Frozen;

use super::frame::{CloseFrame, Tracker, close_frame};
use crate::gateway::alarm::Alarm;
use crate::gateway::front::with_scratch;
use crate::gateway::metrics::OpenTunnel;
use crate::gateway::parcel;
use crate::gateway::phase::Admission;
use crate::pool::Lease;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// After one side has finished, the other gets at most this long without a byte.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(60);
/// For a client to answer our Close frame and leave.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// Reads of one direction in one go, so that a flood one way leaves room for the other.
const BURST: usize = 8;

pub(in crate::gateway) struct Relay {
    client: Stream,
    worker: UnixStream,
    to_client: Direction,
    to_worker: Direction,
    idle: Duration,
    alarm: Alarm,
    farewell: Farewell,
    /// This tunnel's entry with its worker.
    key: Option<usize>,
    /// The worker carries this tunnel, and the limit counts it, until it ends.
    held: (Lease, Admission, OpenTunnel),
}

/// One direction of a tunnel.
struct Direction {
    /// Read and not yet written; holds memory only while the receiver is slower than the sender.
    waiting: BytesMut,
    unflushed: bool,
    state: State,
    frames: Tracker,
    /// To put in at the next frame boundary; the direction ends with it.
    last: Option<CloseFrame>,
}

/// The tunnel's end on our own account.
enum Farewell {
    None,
    /// Asked for; not before this has passed, which spreads the clients' return.
    After(Duration, u16, Alarm),
    /// The Close frames are on their way; the client gets this long to answer and leave.
    Said(Alarm),
}

/// Why a relay has stopped.
enum Turn {
    Ended,
    /// It is to freeze or to move.
    Summoned,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The sender has finished; what waits is still to be written.
    Ending,
    /// The receiver knows that nothing more comes.
    Ended,
}

impl Relay {
    /// `to_client` and `to_worker` have been read already and go first. The worker's answer head, no WebSocket
    /// frame, is the first `head` bytes of `to_client`.
    pub(super) fn new(
        client: Stream,
        worker: UnixStream,
        (to_client, head): (BytesMut, usize),
        to_worker: BytesMut,
        idle: Duration,
        held: (Lease, Admission, OpenTunnel),
    ) -> Box<Relay> {
        let direction = |waiting: BytesMut, head: usize| {
            let mut frames = Tracker::new();
            frames.feed(waiting.get(head..).unwrap_or_default());
            Direction { waiting, unflushed: false, state: State::Open, frames, last: None }
        };
        Box::new(Relay {
            client,
            worker,
            to_client: direction(to_client, head),
            to_worker: direction(to_worker, 0),
            idle,
            alarm: Alarm::default(),
            farewell: Farewell::None,
            key: None,
            held,
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
                    return;
                }
                Ok(Turn::Ended) => return,
                Ok(Turn::Summoned) if self.held.1.is_freezing() => match self.freeze() {
                    Ok(()) => return,
                    Err(stays) => self = stays,
                },
                // Of its own place in memory: hardly any tunnel ever needs it.
                Ok(Turn::Summoned) if Box::pin(self.give()).await => return,
                Ok(Turn::Summoned) => {}
            }
        }
    }

    /// Says which task is to be woken. It may be another one than before.
    fn enter(&mut self, cx: &mut Context<'_>) {
        self.held.1.set_movable(parcel::plain(&self.client).is_some() && !matches!(self.farewell, Farewell::Said(_)));
        self.held.1.rewatch(cx);
        self.held.1.count_tunnel();
        let tunnels = &self.held.0.member().tunnels;
        let key = tunnels.enter(cx.waker().clone());
        if let Some(before) = self.key.replace(key) {
            tunnels.leave(before);
        }
    }

    /// Ends both directions with a Close frame once this tunnel's turn has come.
    fn say_farewell(&mut self, cx: &mut Context<'_>) {
        if let Farewell::None = self.farewell
            && let Some(closing) = self.held.0.member().tunnels.asked()
        {
            let turn = closing.window.mul_f64(fastrand::f64());
            self.farewell = Farewell::After(turn, closing.code, Alarm::default());
        }
        if let Farewell::After(turn, code, alarm) = &mut self.farewell
            && alarm.poll(cx, *turn).is_ready()
        {
            self.held.1.stay();
            self.to_client.last = Some(close_frame(*code, "", None));
            self.to_worker.last = Some(close_frame(*code, "", Some(fastrand::u32(..).to_ne_bytes())));
            self.farewell = Farewell::Said(Alarm::default());
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
        self.say_farewell(cx);
        if self.held.1.is_summoned() && self.is_flushed() {
            return Poll::Ready(Ok(Turn::Summoned));
        }
        let left = matches!(self.farewell, Farewell::Said(_)) && self.client_left(cx);
        if let Farewell::Said(alarm) = &mut self.farewell
            && (left || alarm.poll(cx, FAREWELL_LIMIT).is_ready())
        {
            return Poll::Ready(Ok(Turn::Ended));
        }
        let mut moved = false;
        moved |= self.to_client.relay(cx, &mut self.worker, &mut self.client)?;
        moved |= self.to_worker.relay(cx, &mut self.client, &mut self.worker)?;
        let open = |direction: &Direction| direction.state != State::Ended;
        match (open(&self.to_client), open(&self.to_worker)) {
            // The client's answer to our Close frame is waited for, or its arrival would reset what we sent.
            (false, false) if matches!(self.farewell, Farewell::Said(_)) => return Poll::Pending,
            (false, false) => return Poll::Ready(Ok(Turn::Ended)),
            (true, true) => {}
            _ => self.idle = self.idle.min(HALF_CLOSED_IDLE),
        }
        if moved {
            self.alarm.clear();
        }
        ready!(self.alarm.poll(cx, self.idle));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "silent for too long")))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.held.0.member().tunnels.leave(key);
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
                ready!(Pin::new(from).poll_read(cx, &mut read))?;
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
