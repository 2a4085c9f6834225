//! How many files processes may have open.
//!
//! Shells and service managers start programs with a low soft limit (1,024, often), for old programs that use
//! select(2). A WebSocket takes two descriptors here, so the proxy raises its own as far as it may. What it starts gets
//! the limit that it was started with itself: Node.js raises its own, others may rely on the low one.

use super::usage::open_files_limit;
use nix::libc::{self, rlim_t};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

/// More than this is never needed, and some systems allow a billion.
const MOST: rlim_t = 1 << 20;
/// For listeners, log files, the runtime, commands, health and metrics, and a handoff.
const OWN: usize = 64;
/// For a worker's two pipes, its channel, its pidfd, its socket that is held, and a probe.
const PER_WORKER: usize = 7;

/// The soft limit at our start; empty when it was not raised.
static AT_START: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit to the hard one. To be called once, before anything is started.
pub(crate) fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    let wanted = hard.min(MOST);
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
        let _ = AT_START.set(soft);
    }
}

/// The soft limit that what we start is to have; `None`: ours.
pub(super) fn at_start() -> Option<rlim_t> {
    AT_START.get().copied()
}

/// Gives a program that is to be started the limit that we were started with.
pub(crate) fn limit_as_at_start(command: &mut Command) {
    let Some(soft) = at_start() else { return };
    // SAFETY: the closure makes two plain system calls, which are safe between fork and exec (signal-safety(7)).
    unsafe { command.pre_exec(move || lower(soft)) };
}

/// Sets the soft limit of this process, which has just been forked.
pub(super) fn lower(soft: rlim_t) -> io::Result<()> {
    let mut both = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a plain system call with a pointer to a value that lives on this stack.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut both) } != 0 {
        return Err(io::Error::last_os_error());
    }
    both.rlim_cur = soft.min(both.rlim_max);
    // SAFETY: the same.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &both) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many descriptors traffic may have open, beside those that `workers` worker processes and the proxy itself need.
pub(crate) fn for_traffic(workers: usize) -> usize {
    let most = usize::try_from(open_files_limit().unwrap_or(MOST)).unwrap_or(usize::MAX);
    let reserved = OWN.saturating_add(workers.saturating_mul(PER_WORKER));
    // Even where files are scarce, half is for traffic.
    most.saturating_sub(reserved).max(most / 2)
}
