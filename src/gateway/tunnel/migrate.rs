//! A tunnel that is paused, and its way to another process.

use super::frame::Tracker;
use super::log::TunnelLog;
use super::relay::{CloseHandshake, Direction, Ends, Relay, State};
use crate::gateway::downstream::connections::{ConnectionGuard, Paused};
use crate::gateway::downstream::deadline::Deadline;
use crate::gateway::migration::format::{self, Contents, millis};
use crate::gateway::migration::give;
use crate::gateway::places::Place;
use crate::process::ConnectionTransfer;
use crate::tls::record::stream::RecordStream;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use zeroize::Zeroizing;

struct PausedTunnel {
    relay: Box<Relay>,
    home: Handle,
    bytes: Zeroizing<Vec<u8>>,
    /// Not the relay's while it is paused: who goes on with the tunnel has it.
    log: Option<Box<TunnelLog>>,
}

impl Paused for PausedTunnel {
    fn guard(&mut self) -> &mut ConnectionGuard {
        &mut self.relay.ends.guard
    }

    fn resume(self: Box<Self>) {
        let PausedTunnel { mut relay, home, log, .. } = *self;
        relay.ends.log = log;
        home.spawn(relay.run());
    }

    fn to_transfer(&self) -> (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>) {
        // Both are there: it was looked at before the pause.
        let client = format::descriptor(&self.relay.client).ok();
        (self.bytes.clone(), client.into_iter().chain([self.relay.worker.as_fd()]).collect())
    }
}

impl Relay {
    /// Pauses, if tunnels still do and this one can be moved.
    pub(super) fn pause(mut self: Box<Self>) -> Result<(), Box<Relay>> {
        let bytes = match self.to_transfer() {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                log::warn!("{}: a tunnel cannot be moved: {error}", self.ends.lease.member().id);
                self.ends.guard.stay();
                return Err(self);
            }
        };
        let registry = self.ends.guard.registry().clone();
        let log = self.ends.log.take();
        let paused = PausedTunnel { relay: self, home: Handle::current(), bytes, log };
        registry.gather(Box::new(paused)).map_err(|paused| {
            let PausedTunnel { mut relay, log, .. } = *paused;
            relay.ends.log = log;
            relay
        })
    }

    /// Sends the tunnel to another process. `false`: it goes on here, for good if nobody takes it.
    pub(super) async fn give(&mut self) -> bool {
        let transfer = self.transfer();
        give::send(&mut self.ends.guard, transfer, "a tunnel").await
    }

    /// Nothing is kept back on the way out but what moves with the tunnel: sealed bytes that the client has not taken yet.
    pub(super) fn is_flushed(&self) -> bool {
        (!self.to_client.unflushed || format::records(&self.client).is_some()) && !self.to_worker.unflushed
    }

    /// Whoever takes over takes tunnels like this one. If not, it stays for good.
    pub(super) fn is_taken(&mut self) -> bool {
        let taken = format::records(&self.client).is_none() || self.ends.guard.registry().takes_tls();
        if !taken {
            self.ends.guard.stay();
        }
        taken
    }

    fn transfer(&self) -> io::Result<ConnectionTransfer> {
        let (bytes, fds) = self.to_transfer()?;
        let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        Ok(ConnectionTransfer { bytes, fds })
    }

    fn to_transfer(&self) -> io::Result<(Zeroizing<Vec<u8>>, [BorrowedFd<'_>; 2])> {
        let closing = match &self.closing {
            CloseHandshake::None => None,
            CloseHandshake::After(turn, code, deadline) => Some((*code, millis(deadline.left().unwrap_or(*turn)))),
            CloseHandshake::Said(_) => return Err(io::Error::other("its closing handshake is under way")),
        };
        let tls = match format::records(&self.client) {
            Some(records) => Some(records.save().ok_or_else(|| io::Error::other("its TLS connection is over"))?),
            None => None,
        };
        let member = self.ends.lease.member();
        let contents = Contents::Tunnel(Box::new(format::Tunnel {
            peer: format::peer(&self.client),
            app: member.id.app.to_string(),
            slot: member.id.slot.0,
            incarnation: member.id.incarnation.0,
            tag: member.tag.map(|tag| tag.to_string()),
            socket: member.socket.to_string(),
            idle_ms: millis(self.idle),
            left_ms: self.deadline.left().map(millis),
            to_client: self.to_client.to_transfer(),
            to_worker: self.to_worker.to_transfer(),
            farewell: closing,
            client: self.ends.guard.client().map(Place::ip),
            room: self.ends.lease.room().map(|led| led.room.hash()),
            tls: tls.as_ref().map(|state| state.len()),
            log: self.ends.log.as_ref().map(|log| log.entry(self.to_worker.read, self.to_client.read)),
        }));
        let state = tls.as_ref().map_or(&[][..], |state| state);
        let bytes = contents.pack(&[&self.to_client.waiting, &self.to_worker.waiting, state])?;
        Ok((bytes, [format::descriptor(&self.client)?, self.worker.as_fd()]))
    }

    /// Goes on from what [`Relay::to_transfer`] said; `waiting` are the bytes behind it.
    ///
    /// # Errors
    /// A sentence that names what cannot be.
    pub(in crate::gateway) fn resume(
        said: &format::Tunnel,
        waiting: &[u8],
        (client, worker): (Stream, UnixStream),
        ends: Ends,
    ) -> Result<Box<Relay>, String> {
        let wrong = || {
            format!(
                "{} bytes wait where {} + {} were announced",
                waiting.len(),
                said.to_client.waiting,
                said.to_worker.waiting
            )
        };
        let (to_client, to_worker) = waiting.split_at_checked(said.to_client.waiting).ok_or_else(wrong)?;
        if to_worker.len() != said.to_worker.waiting {
            return Err(wrong());
        }
        let mut deadline = Deadline::default();
        // No longer than all of it, whatever the transfer says.
        let left = said.left_ms.map(|left| Duration::from_millis(left.min(said.idle_ms)));
        left.into_iter().for_each(|left| deadline.resume(left));
        let after =
            |(code, left): (u16, u64)| CloseHandshake::After(Duration::from_millis(left), code, Deadline::default());
        let mut to_client = Direction::resume(&said.to_client, to_client)?;
        to_client.unflushed = format::records(&client).is_some_and(RecordStream::has_unsent);
        Ok(Box::new(Relay {
            client,
            worker,
            to_client,
            to_worker: Direction::resume(&said.to_worker, to_worker)?,
            idle: Duration::from_millis(said.idle_ms),
            deadline,
            closing: said.farewell.map_or(CloseHandshake::None, after),
            key: None,
            first: None,
            ends,
        }))
    }
}

impl Direction {
    fn to_transfer(&self) -> format::Direction {
        let state = match self.state {
            State::Open => format::State::Open,
            State::Ending => format::State::Ending,
            State::Ended => format::State::Ended,
        };
        format::Direction { waiting: self.waiting.len(), state, frames: self.frames.parts().into() }
    }

    fn resume(said: &format::Direction, waiting: &[u8]) -> Result<Direction, String> {
        let state = match said.state {
            format::State::Open => State::Open,
            format::State::Ending => State::Ending,
            format::State::Ended if waiting.is_empty() => State::Ended,
            format::State::Ended => return Err("bytes wait in a direction that has ended".into()),
        };
        let frames =
            Tracker::from_parts(said.frames.into()).ok_or_else(|| format!("no frame stands at {:?}", said.frames))?;
        Ok(Direction { waiting: BytesMut::from(waiting), unflushed: false, state, read: 0, frames, last: None })
    }
}
