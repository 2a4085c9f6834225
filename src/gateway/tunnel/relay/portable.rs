//! A tunnel that stands still, and its way to another process.

use super::{Direction, Farewell, Relay, State};
use crate::gateway::alarm::Alarm;
use crate::gateway::metrics::OpenTunnel;
use crate::gateway::parcel::{self, Contents, Parcel, millis};
use crate::gateway::phase::Admission;
use crate::gateway::tunnel::frame::Tracker;
use crate::pool::Lease;
use bytes::BytesMut;
use pingora_core::protocols::Stream;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::time::timeout;

/// For the successor to take one tunnel; what it does not take in time stays here.
const GIVE_LIMIT: Duration = Duration::from_secs(10);

/// A tunnel between two steps: nothing is read from either side, nothing written. It still counts as open, and its
/// worker as in use. Dropping it closes this process's descriptors and says nothing to either side, so it is no end
/// for a tunnel that goes on elsewhere.
pub(crate) struct Frozen {
    relay: Box<Relay>,
    home: Handle,
    bytes: Vec<u8>,
}

impl Frozen {
    /// It goes on here as if nothing was.
    pub(crate) fn thaw(self) {
        self.home.spawn(self.relay.run());
    }

    /// All of it as bytes, and the descriptors of the client's and the worker's connection.
    pub(crate) fn portable(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        // Both are there: it was looked at before it froze.
        let client = parcel::descriptor(&self.relay.client).ok();
        (self.bytes.clone(), client.into_iter().chain([self.relay.worker.as_fd()]).collect())
    }

    pub(in crate::gateway) fn admission(&mut self) -> &mut Admission {
        &mut self.relay.held.1
    }
}

impl Relay {
    /// Freezes, if tunnels still do and this one can be moved.
    pub(super) fn freeze(mut self: Box<Self>) -> Result<(), Box<Relay>> {
        let bytes = match self.portable() {
            Ok((bytes, _)) => bytes,
            Err(error) => {
                log::warn!("{}: a tunnel cannot be moved: {error}", self.held.0.member().id);
                self.held.1.stay();
                return Err(self);
            }
        };
        let house = self.held.1.house().clone();
        let frozen = Frozen { relay: self, home: Handle::current(), bytes };
        house.gather(frozen).map_err(|frozen| frozen.relay)
    }

    /// Sends the tunnel to another process. `false`: it goes on here, for good if nobody takes it.
    pub(super) async fn give(&mut self) -> bool {
        let Some(mover) = self.held.1.mover() else { return false };
        let moved = match self.parcel() {
            Ok(parcel) => timeout(GIVE_LIMIT, mover.send(parcel)).await.is_ok_and(|sent| sent.is_ok()),
            Err(error) => {
                log::warn!("{}: a tunnel cannot be moved: {error}", self.held.0.member().id);
                false
            }
        };
        if !moved {
            self.held.1.stay();
        }
        moved
    }

    /// Nothing is kept back on the way out.
    pub(super) fn is_flushed(&self) -> bool {
        !self.to_client.unflushed && !self.to_worker.unflushed
    }

    fn parcel(&self) -> io::Result<Parcel> {
        let (bytes, fds) = self.portable()?;
        let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        Ok(Parcel { bytes, fds })
    }

    fn portable(&self) -> io::Result<(Vec<u8>, [BorrowedFd<'_>; 2])> {
        let farewell = match &self.farewell {
            Farewell::None => None,
            Farewell::After(turn, code, alarm) => Some((*code, millis(alarm.left().unwrap_or(*turn)))),
            Farewell::Said(_) => return Err(io::Error::other("it is saying its farewell")),
        };
        let member = self.held.0.member();
        let contents = Contents::Tunnel(Box::new(parcel::Tunnel {
            peer: parcel::peer(&self.client),
            app: member.id.app.to_string(),
            slot: member.id.slot.0,
            incarnation: member.id.incarnation.0,
            tag: member.tag.map(|tag| tag.to_string()),
            socket: member.socket.to_string(),
            idle_ms: millis(self.idle),
            left_ms: self.alarm.left().map(millis),
            to_client: self.to_client.portable(),
            to_worker: self.to_worker.portable(),
            farewell,
        }));
        let bytes = contents.pack(&[&self.to_client.waiting, &self.to_worker.waiting])?;
        Ok((bytes, [parcel::descriptor(&self.client)?, self.worker.as_fd()]))
    }

    /// Goes on from what [`Relay::portable`] said; `waiting` are the bytes behind it.
    ///
    /// # Errors
    /// A sentence that names what cannot be.
    pub(in crate::gateway) fn resume(
        said: &parcel::Tunnel,
        waiting: &[u8],
        (client, worker): (Stream, UnixStream),
        held: (Lease, Admission, OpenTunnel),
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
        let mut alarm = Alarm::default();
        // No longer than all of it, whatever the parcel says.
        let left = said.left_ms.map(|left| Duration::from_millis(left.min(said.idle_ms)));
        left.into_iter().for_each(|left| alarm.resume(left));
        let after = |(code, left): (u16, u64)| Farewell::After(Duration::from_millis(left), code, Alarm::default());
        Ok(Box::new(Relay {
            client,
            worker,
            to_client: Direction::resume(&said.to_client, to_client)?,
            to_worker: Direction::resume(&said.to_worker, to_worker)?,
            idle: Duration::from_millis(said.idle_ms),
            alarm,
            farewell: said.farewell.map_or(Farewell::None, after),
            key: None,
            held,
        }))
    }
}

impl Direction {
    fn portable(&self) -> parcel::Direction {
        let state = match self.state {
            State::Open => parcel::State::Open,
            State::Ending => parcel::State::Ending,
            State::Ended => parcel::State::Ended,
        };
        parcel::Direction { waiting: self.waiting.len(), state, frames: self.frames.parts() }
    }

    fn resume(said: &parcel::Direction, waiting: &[u8]) -> Result<Direction, String> {
        let state = match said.state {
            parcel::State::Open => State::Open,
            parcel::State::Ending => State::Ending,
            parcel::State::Ended if waiting.is_empty() => State::Ended,
            parcel::State::Ended => return Err("bytes wait in a direction that has ended".into()),
        };
        let frames = Tracker::from_parts(said.frames).ok_or_else(|| format!("no frame stands at {:?}", said.frames))?;
        Ok(Direction { waiting: BytesMut::from(waiting), unflushed: false, state, frames, last: None })
    }
}
