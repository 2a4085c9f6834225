//! Rooms: clients that meet on one worker, because a segment of their path leads there.
//!
//! Workers come and go, and consistent hashing leads some rooms elsewhere then. A request simply goes to the room's
//! new worker; a tunnel would stay, and the room would be in two halves. So the tunnels of rooms that have moved are
//! asked to close, and their clients come back where the room is now.

use super::affinity::Affinity;
use super::{Member, Pool};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A room by the hash of its name: rooms that share one share a worker, which harms nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room(u64);

impl Room {
    /// FNV-1a, as the [selector](super::selector) uses it: two proxies must agree.
    pub(crate) fn named(name: impl Iterator<Item = u8>) -> Room {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Room(name.fold(0xcbf2_9ce4_8422_2325, step))
    }

    /// As another proxy wrote it down.
    pub(crate) fn from_hash(hash: u64) -> Room {
        Room(hash)
    }

    pub(crate) fn hash(self) -> u64 {
        self.0
    }
}

/// A room, and when it was asked where it is: in a count of the changes of all pools.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Led {
    pub(crate) room: Room,
    pub(super) at: u64,
}

static CHANGES: AtomicU64 = AtomicU64::new(0);

impl Room {
    /// To be called before it is looked up: what changes in between counts as later.
    pub(crate) fn led_now(self) -> Led {
        Led { room: self, at: CHANGES.load(Ordering::Acquire) }
    }
}

impl Pool {
    /// The worker on which a room is: while it is there, no other.
    pub(super) fn host(&self, room: Room, usable: &impl Fn(&Arc<Member>) -> bool) -> Option<Arc<Member>> {
        self.hashed(&room.0.to_be_bytes(), usable)
    }

    /// Closes the tunnels of rooms that are elsewhere now.
    pub(super) fn close_moved(&self) {
        if !matches!(self.settings().affinity, Affinity::Path(_)) {
            return;
        }
        let at = CHANGES.fetch_add(1, Ordering::AcqRel) + 1;
        for member in self.members() {
            let moved = |room| self.host(room, &|_| true).is_some_and(|host| host.id != member.id);
            member.tunnels.close_rooms(at, moved);
        }
    }
}
