//! The right to use one worker. Load ends when the lease does, so it must live as long as the
//! response or tunnel it stands for.

use super::{Led, Member, Queue};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A request in flight.
    Request,
    /// A waiting Engine.IO poll or an open tunnel.
    Parked,
}

/// One request's or tunnel's use of a worker (RAII).
#[derive(Debug)]
pub(crate) struct Lease {
    member: Arc<Member>,
    usage: Use,
    /// Where others wait for the room that this one takes.
    queue: Option<Arc<Queue>>,
    /// The room that led to the worker.
    room: Option<Led>,
}

impl Lease {
    pub(super) fn new(member: Arc<Member>, usage: Use, queue: Option<Arc<Queue>>) -> Lease {
        counter(&member, usage).fetch_add(1, Ordering::Relaxed);
        member.load.total.fetch_add(1, Ordering::Relaxed);
        Lease { member, usage, queue, room: None }
    }

    /// For a tunnel that another process has opened: it is no new use.
    pub(crate) fn resumed(member: Arc<Member>) -> Lease {
        Lease::lent(member, Use::Parked)
    }

    /// For what another process still has with the worker: no new use either.
    pub(crate) fn lent(member: Arc<Member>, usage: Use) -> Lease {
        counter(&member, usage).fetch_add(1, Ordering::Relaxed);
        Lease { member, usage, queue: None, room: None }
    }

    pub(crate) fn of_room(mut self, room: Option<Led>) -> Lease {
        self.room = room;
        self
    }

    pub(crate) fn room(&self) -> Option<Led> {
        self.room
    }

    /// The request has become a tunnel: it is no load any more, and makes room for others.
    pub(crate) fn park(&mut self) {
        if self.usage == Use::Request {
            counter(&self.member, Use::Parked).fetch_add(1, Ordering::Relaxed);
            counter(&self.member, Use::Request).fetch_sub(1, Ordering::Relaxed);
            self.usage = Use::Parked;
            self.queue.take().iter().for_each(|queue| queue.wake_one());
        }
    }

    /// Whether it is the poll of a session on a path where the worker has said that its Engine.IO serves, and one of as
    /// many as it has sessions for. The lease of any other poll is a request's.
    pub(crate) fn is_poll_of_session(&self, path: &[u8]) -> bool {
        self.usage == Use::Parked && self.member.engine.says(path)
    }

    pub(crate) fn member(&self) -> &Arc<Member> {
        &self.member
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        counter(&self.member, self.usage).fetch_sub(1, Ordering::Relaxed);
        if let Some(queue) = &self.queue {
            queue.wake_one();
        }
    }
}

fn counter(member: &Member, usage: Use) -> &AtomicU32 {
    match usage {
        Use::Request => &member.load.active,
        Use::Parked => &member.load.parked,
    }
}
