//! A process that is not a worker: watched and ended by its pidfd, so never a stranger that got its number.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

#[derive(Debug)]
pub(crate) struct PidfdProcess(AsyncFd<OwnedFd>);

impl PidfdProcess {
    /// `None` when there is no such process, or it is this one. Needs a Tokio runtime.
    ///
    /// # Errors
    /// It may live, and cannot be watched: descriptors are used up, say.
    pub(crate) fn open(pid: u32) -> std::io::Result<Option<PidfdProcess>> {
        if pid == std::process::id() {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // SAFETY: the descriptor moves into the result, which nobody can replace or close while it is registered.
        let watched = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(Some(PidfdProcess(watched?)))
    }

    /// Whether it has ended, or does so within a limit.
    pub(crate) async fn ended(&self, limit: Duration) -> bool {
        timeout(limit, self.0.readable()).await.is_ok()
    }

    pub(crate) fn kill(&self) -> std::io::Result<()> {
        Ok(pidfd_send_signal(self.0.get_ref(), Signal::KILL)?)
    }
}

/// Sends SIGTERM to a process that was heard of a moment ago.
pub(crate) fn ask_to_end(pid: u32) {
    let sent =
        i32::try_from(pid).ok().and_then(Pid::from_raw).map(|pid| rustix::process::kill_process(pid, Signal::TERM));
    if let Some(Err(error)) = sent {
        log::warn!("sending SIGTERM to process {pid}: {error}");
    }
}
