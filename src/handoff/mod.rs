//! One proxy process gives everything to its successor: listeners, workers, open tunnels.
//!
//! This module is the conversation of the two, over `handoff.sock` in the runtime directory. What is given, how it is
//! taken out of one process and put into the other, is behind [`Predecessor`] and [`Successor`], which `server/`
//! implements.
//!
//! ```text
//!   successor                                predecessor
//!   hello {protocol, version, pid, capabilities} ──►             at its start, as a candidate
//!                                   ◄─────── welcome | refused
//!                                            ... SIGQUIT, or the command `upgrade` ...
//!                                            pauses: nothing starts or stops any more
//!                                   ◄─────── snapshot + lock and listeners
//!   restores, binds the control socket
//!   bound {pid}                     ───────►
//!                                            ends the workers' control connections; they connect again
//!   sees the workers, probes them
//!   ready                           ───────►
//!                                   ◄─────── keys of session tickets, if it can take them
//!                                            stops reading output, pauses the tunnels
//!                                   ◄─────── tunnels (both sockets, bytes under way, frame state) ...
//!   stages them
//!                                   ◄─────── commit + partial lines of output + what is in use of the workers
//!   committed                       ───────►
//!   accepts, relays, decides                 stops accepting; finishes its requests
//!                                   ◄─────── connections that became idle, tunnels that opened late ...
//!                                   ◄─────── in use (workers that its requests still use must not be stopped)
//!                                   ◄─────── draining predecessor + its connection (of each that still finishes requests)
//!                                            exits when empty
//! ```
//!
//! There is one owner at any time. Until the predecessor has read `committed` it is the owner, and the successor has
//! neither accepted, read nor written anything. Whatever fails before, the predecessor resumes what it paused, once the
//! successor is surely gone. Every step has a limit. `committed` is both sent and read, or neither: a predecessor that
//! stops waiting first shuts down its reading side, so the message is there already or can no longer be sent. When the
//! predecessor dies, the successor has all it needs from `snapshot` on, and takes over without the rest.

#![forbid(unsafe_code)]

mod fault;
mod message;
mod predecessor;
mod predecessors;
mod roles;
mod server;
mod successor;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use predecessors::DrainingPredecessors;
pub(crate) use roles::{Capabilities, FirstPayload, PausedConnection, PausedPayload, Predecessor, Released, Successor};
pub(crate) use server::{HandoffServer, HandoffTrigger};
pub(crate) use successor::{HandoffClient, Takeover, take_over};
pub(crate) use wire::Secret;

use std::fmt;
use std::time::Duration;

/// What both sides must speak. Counts up with every change of a message, of the snapshot or of a connection's state that the
/// other side would not understand.
pub(crate) const PROTOCOL: u32 = 1;

/// Name of the socket in the runtime directory.
pub(crate) use crate::process::HANDOFF_SOCKET as SOCKET;

/// How long one step of the conversation may take. Workers that connect again need the most of it.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for the answer to `commit`: tunnels are paused meanwhile, and the successor has nothing left to prepare.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a successor gets to exit after a failure, before it is killed.
const SUCCESSOR_EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a successor waits for the handoff to begin.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(300);

/// The limit of a step; tests set a shorter one.
pub(crate) fn step_limit() -> Duration {
    let set = std::env::var("PINGORA_UNIX_PROXY_HANDOFF_LIMIT_MS").ok().filter(|_| cfg!(debug_assertions));
    set.and_then(|text| text.parse().ok()).map_or(STEP_TIMEOUT, Duration::from_millis)
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
