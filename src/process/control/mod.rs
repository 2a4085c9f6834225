//! The proxy's end of the control channel (docs/protocol.md).
//!
//! Workers dial in. Every connection is a task of its own that proves who is there, then turns
//! lines into [`Report`]s; what a worker's connections say together (which socket is the main one)
//! is settled by [`links`]. Whoever expects a worker registers it in the [`Registry`] before its
//! process starts, and speaks to it through the same registry.

#![forbid(unsafe_code)]

mod callers;
mod complaints;
mod external;
mod links;
mod message;
mod pace;
mod places;
mod registry;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use external::{Door, Join, Turned};
pub(crate) use message::{PROTOCOL, Place, PortState, ProxySays, Stats};
pub(crate) use registry::{Expected, Registry, Token, is_own_socket};
#[cfg(test)]
pub(crate) use server::bind;
pub(crate) use server::{bind_over, serve, serve_external};

use crate::worker::WorkerId;
use std::sync::Arc;

/// A fact about a worker, told to the supervisor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// It opened its (first) connection; `pid` is of the process that serves, which may be a
    /// descendant of the one that was started, as the kernel tells it: `None` in another PID namespace.
    Hello { pid: Option<u32>, node: Option<String> },
    /// Its last connection is gone.
    HungUp,
    /// Its main server listens here, or moved here; with the port that it asked for, and the process that it is in, as
    /// [`Report::Hello`] has it.
    Path { socket: Arc<str>, port: Option<u16>, pid: Option<u32> },
    /// What became of a port of a server that is not the main one.
    Port { port: u16, state: PortState },
    /// Its main server no longer listens.
    PathClosed,
    /// The app said `process.send('ready')`.
    Ready,
    /// The app said something else.
    Message(serde_json::Value),
    /// `sessions` are those of all its processes.
    Stats(Stats),
    /// Its Engine.IO servers take requests whose targets begin with these, and have so many sessions.
    Engine { paths: Vec<String>, sessions: u64 },
}

/// What the supervisor receives.
pub(crate) type Reported = (WorkerId, Report);
