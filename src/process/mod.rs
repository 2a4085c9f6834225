//! The operating system: runtime directory, spawn, control channel, output, exits.
//!
//! Nothing here decides; the supervisor calls it and turns what comes back into events of the fleet.
//! Errors are [`Error`]s for people, never panics.

mod access_list;
pub(crate) mod cause;
pub(crate) mod control;
pub(crate) mod daemon;
mod descriptor;
mod detached;
pub(crate) mod diagnostics;
mod ending;
pub(crate) mod env_file;
mod environment;
mod error;
mod exit;
pub(crate) mod files;
mod group;
pub(crate) mod guard;
pub(crate) mod init;
pub(crate) mod lineage;
pub(crate) mod listening;
pub(crate) mod memory;
pub(crate) mod output;
mod pidfd;
pub(crate) mod port_taken;
mod preload;
pub(crate) mod program;
pub(crate) mod release;
mod runtime_dir;
mod shared_dir;
pub(crate) mod socket_activation;
mod spawn;
pub(crate) mod spec;
pub(crate) mod state;
pub(crate) mod strays;
#[cfg(test)]
mod tests;
mod transfer;
pub(crate) mod tree;
pub(crate) mod usage;
pub(crate) mod worker_socket;

pub(crate) use descriptor::{descriptor, peer_pid, readable};
pub(crate) use detached::spawn_detached;
pub(crate) use ending::Exit;
pub(crate) use environment::is_ours;
pub(crate) use error::Error;
pub(crate) use exit::Process;
pub(crate) use group::Group;
pub(crate) use pidfd::{PidfdProcess, ask_to_end};
pub(crate) use preload::PRELOAD;
pub(crate) use runtime_dir::{ADMIN_SOCKET, AppUser, HANDOFF_SOCKET, PID_FILE, Renewal, RuntimeDir, answers};
pub(crate) use shared_dir::{LONGEST_SHARED, SharedDir};
pub(crate) use spawn::{Job, Preload, spawn};
pub(crate) use transfer::ConnectionTransfer;
