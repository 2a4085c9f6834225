//! A running process: its end is seen through a pidfd, which also works for a process that is not
//! our child (one taken over from an earlier proxy).

use super::Error;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that leads its own group. Signals go to the whole group, and never to a stranger
/// that got the same number later.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pid: Pid,
    pidfd: OwnedFd,
    /// After that the number may belong to somebody else.
    reaped: Mutex<bool>,
    /// Whether its end was asked for, so that its descendants may finish, too.
    asked: AtomicBool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal {
        number: i32,
        core: bool,
    },
    /// It was not our child, so nobody told us.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal { number, core } => {
                match nix::sys::signal::Signal::try_from(number) {
                    Ok(signal) => write!(f, "killed by {signal}")?,
                    Err(_) => write!(f, "killed by signal {number}")?,
                }
                f.write_str(if core { " (core dumped)" } else { "" })
            }
            Exit::Unknown => f.write_str("exited"),
        }
    }
}

impl Process {
    /// For a process that is known to live (our child, or one proven by its start time).
    pub(crate) fn open(pid: u32) -> Result<Process, Error> {
        let doing = || format!("watching process {pid}");
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = raw.ok_or_else(|| Error::Io { doing: doing(), source: std::io::ErrorKind::InvalidInput.into() })?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::io(doing())(e.into()))?;
        Ok(Process(Arc::new(Inner { pid, pidfd, reaped: Mutex::new(false), asked: AtomicBool::new(false) })))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal to the process group; nothing happens when it is gone.
    pub(crate) fn signal_group(&self, number: i32) -> Result<(), Error> {
        let reaped = self.0.reaped.lock().unwrap_or_else(|e| e.into_inner());
        if *reaped {
            return Ok(());
        }
        let doing = || format!("sending signal {number} to process group {}", self.pid());
        let named = Signal::from_named_raw(number);
        let signal = named.ok_or_else(|| Error::io(doing())(std::io::ErrorKind::InvalidInput.into()))?;
        match kill_process_group(self.0.pid, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io(doing())(e.into())),
        }
    }

    pub(crate) fn kill_group(&self) -> Result<(), Error> {
        self.signal_group(Signal::KILL.as_raw())
    }

    /// From now on the group may outlive its leader until it is killed: the worker may be a child
    /// of a wrapper (`npm start`, a shell) that a signal ends at once.
    pub(crate) fn ask_to_end(&self) {
        self.0.asked.store(true, Ordering::Relaxed);
    }

    /// Waits for the end, kills what is left of the group, then reaps the process: until then its
    /// number, which is also the group's, cannot be given to another. For one caller.
    pub(crate) async fn wait(&self) -> Result<Exit, Error> {
        let failed = |e: std::io::Error| Error::io(format!("waiting for process {}", self.pid()))(e);
        // SAFETY: `self` owns the descriptor and outlives the borrow; nobody closes or replaces it.
        let watched = unsafe { AsyncFd::register_with_interest(self.0.pidfd.as_fd(), Interest::READABLE) };
        let watched = watched.map_err(|e| failed(e.into()))?;
        let _ready = watched.readable().await.map_err(failed)?;
        // Who asked for the end also limits it, by SIGKILL to the group.
        while self.0.asked.load(Ordering::Relaxed) && group_has_others(self.pid()) {
            tokio::time::sleep(GROUP_POLL).await;
        }
        if let Err(e) = self.kill_group() {
            log::warn!("{e}");
        }
        let mut reaped = self.0.reaped.lock().unwrap_or_else(|e| e.into_inner());
        *reaped = true;
        match waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => Ok(describe(&status)),
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(Exit::Unknown),
            Err(e) => Err(failed(e.into())),
        }
    }
}

/// Between two looks at the group of a leader that is gone.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// Whether a process other than its leader lives in a group (proc_pid_stat(5)).
fn group_has_others(group: u32) -> bool {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != group).any(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold anything, also parentheses.
        let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
        let (state, pgrp) = (fields.next(), fields.nth(1));
        pgrp.and_then(|pgrp| pgrp.parse().ok()) == Some(group) && !matches!(state, Some("Z" | "X"))
    })
}

fn describe(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (_, Some(number)) => Exit::Signal { number, core: status.dumped() },
        _ => Exit::Unknown,
    }
}
