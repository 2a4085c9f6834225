//! One proxy process gives everything to its successor: listeners, workers, open tunnels.
//!
//! This room is the conversation of the two, over `handoff.sock` in the runtime directory. What is given, and how it
//! is taken out of the one process and put into the other, is behind [`Predecessor`] and [`Successor`]; the
//! composition root brings both.
//!
//! ```text
//!   successor                                predecessor
//!   hello {protocol, version, pid}  ───────►                     at its start, as a candidate
//!                                   ◄─────── welcome | refused
//!                                            ... SIGQUIT, or the command `upgrade` ...
//!                                            freezes: nothing starts or stops any more
//!                                   ◄─────── estate + lock and listeners
//!   restores, binds the control socket
//!   bound {pid}                     ───────►
//!                                            lets the workers' control connections go; they redial
//!   sees them, probes them
//!   ready                           ───────►
//!                                            stops reading output, freezes the tunnels
//!                                   ◄─────── parcels (tunnels: both sockets, bytes under way, frame state) ...
//!   makes them ready to go on
//!                                   ◄─────── commit + partial lines of output + what is still used of the workers
//!   committed                       ───────►
//!   accepts, relays, decides                 stops accepting; finishes its requests
//!                                   ◄─────── parcels (connections that became idle, tunnels that opened late) ...
//!                                   ◄─────── lent (what its requests still use of the workers: they must not be stopped)
//!                                   ◄─────── elder + conversation (of each before it that still finishes something)
//!                                            exits when empty
//! ```
//!
//! There is one owner at any time. Until the predecessor has read `committed` it is the owner, and the successor has
//! neither accepted, read nor written anything: whatever fails before, the predecessor takes up again what it froze, once
//! the successor is surely gone. Every step has a limit. `committed` is said and heard, or neither: a predecessor that
//! waits no longer shuts its ear first, so the word is there already or cannot be said any more. When it is the predecessor that dies, the successor has all it
//! needs from `estate` on, and takes over without the rest.

#![forbid(unsafe_code)]

mod door;
mod elders;
mod fault;
mod give;
mod message;
mod take;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use door::{Door, Knocker};
pub(crate) use elders::Elders;
pub(crate) use give::{Ceded, Frozen, Given, Packed, Predecessor};
pub(crate) use take::{Inheritance, Successor, Taken, take};
pub(crate) use wire::Parcel;

use std::fmt;
use std::time::Duration;

/// What both sides must speak. Counts up with every change of a message, of the estate or of a parcel that the
/// other side would not understand.
pub(crate) const PROTOCOL: u32 = 1;

/// Name of the socket in the runtime directory.
pub(crate) use crate::process::HANDOFF_SOCKET as SOCKET;

/// How long one step of the conversation may take. Workers that redial need the most of it.
const STEP: Duration = Duration::from_secs(10);
/// The same while tunnels stand still: nothing is left to do but to take note.
const STILL: Duration = Duration::from_secs(5);
/// What a successor gets to leave after a failure, before it is killed.
const LEAVE: Duration = Duration::from_secs(1);
/// How long a successor waits for the handoff to begin.
const CANDIDATE: Duration = Duration::from_secs(300);

/// The limit of a step; tests set a shorter one.
pub(crate) fn step_limit() -> Duration {
    let set = std::env::var("PINGORA_UNIX_PROXY_HANDOFF_LIMIT_MS").ok().filter(|_| cfg!(debug_assertions));
    set.and_then(|text| text.parse().ok()).map_or(STEP, Duration::from_millis)
}

/// Why a handoff did not come about, for people.
#[derive(Debug)]
pub(crate) struct Error(pub(crate) String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error {
    fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}
