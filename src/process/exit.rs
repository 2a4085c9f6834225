//! A running process: its end is seen through a pidfd, which also works for a process that is not
//! our child (one taken over from an earlier proxy).

use super::Error;
use super::ending::{self, Exit};
use super::usage::{real_user, start_time};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
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
    /// Another proxy looks after it now: all that is left to us is to reap it.
    handed_over: AtomicBool,
    /// When it was started, if it is not our child: then nobody keeps its number for us.
    started: Option<u64>,
}

impl Process {
    /// For our child, which is known to be there until we reap it.
    pub(crate) fn open(pid: u32) -> Result<Process, Error> {
        Process::watch(pid, None)
    }

    /// For a process that an earlier proxy started at `started` (proc_pid_stat(5), field 22) as user `uid`.
    ///
    /// # Errors
    /// It is gone, or its number belongs to another now.
    pub(crate) fn adopt(pid: u32, started: u64, uid: u32) -> Result<Process, Error> {
        let process = Process::watch(pid, Some(started))?;
        // The descriptor holds on to whoever has the number now; so only then look who that is.
        let found = start_time(pid).and_then(|time| Ok((time, real_user(pid)?)));
        let doing = || format!("taking over process {pid}");
        let (time, user) = found.map_err(|e| Error::Io { doing: doing(), source: e })?;
        // One that was started as root may have taken another user's id since.
        if time != started || (user != uid && uid != 0) {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "its number belongs to another process now");
            return Err(Error::Io { doing: doing(), source });
        }
        Ok(process)
    }

    fn watch(pid: u32, started: Option<u64>) -> Result<Process, Error> {
        let doing = || format!("watching process {pid}");
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|pid| may_be_a_group(*pid));
        let pid = raw.ok_or_else(|| Error::Io { doing: doing(), source: std::io::ErrorKind::InvalidInput.into() })?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| Error::io(doing())(e.into()))?;
        let (reaped, asked, handed_over) = (Mutex::new(false), AtomicBool::new(false), AtomicBool::new(false));
        Ok(Process(Arc::new(Inner { pid, pidfd, reaped, asked, handed_over, started })))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid.as_raw_pid().unsigned_abs()
    }

    /// Sends a signal to the process group; nothing happens when it is gone.
    pub(crate) fn signal_group(&self, number: i32) -> Result<(), Error> {
        let reaped = self.0.reaped.lock().unwrap_or_else(|e| e.into_inner());
        if *reaped || !self.has_its_number() {
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

    /// Once a stranger has the number, no process of the group is left: while there is one, the kernel
    /// gives the number to nobody.
    fn has_its_number(&self) -> bool {
        match (self.0.started, start_time(self.pid())) {
            (Some(started), Ok(now)) => started == now,
            _ => true,
        }
    }

    /// When it was started, in clock ticks since the boot.
    pub(crate) fn start_time(&self) -> Option<u64> {
        self.0.started.or_else(|| start_time(self.pid()).ok())
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut ended = [PollFd::new(&self.0.pidfd, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// From now on its end is only reaped: another proxy does what is to be done.
    pub(crate) fn hand_over(&self) {
        self.0.handed_over.store(true, Ordering::Relaxed);
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
        let handed_over = || self.0.handed_over.load(Ordering::Relaxed);
        while !handed_over() && self.0.asked.load(Ordering::Relaxed) && group_has_others(self.pid()) {
            tokio::time::sleep(GROUP_POLL).await;
        }
        if !handed_over()
            && let Err(e) = self.kill_group()
        {
            log::warn!("{e}");
        }
        let exit = self.reap().map_err(failed)?;
        if exit != Exit::Unknown {
            return Ok(exit);
        }
        // Its parent is about to reap it.
        for _ in 0..TOLD_LOOKS {
            if let Some(exit) = ending::told_by(self.0.pidfd.as_fd()) {
                return Ok(exit);
            }
            tokio::time::sleep(TOLD_POLL).await;
        }
        Ok(Exit::Unknown)
    }

    fn reap(&self) -> std::io::Result<Exit> {
        let mut reaped = self.0.reaped.lock().unwrap_or_else(|e| e.into_inner());
        *reaped = true;
        match waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => Ok(describe(&status)),
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(Exit::Unknown),
            Err(e) => Err(e.into()),
        }
    }
}

/// How often the kernel is asked how a stranger's child ended, and between two times.
const TOLD_LOOKS: u32 = 10;
const TOLD_POLL: Duration = Duration::from_millis(10);
/// Between two looks at the group of a leader that is gone.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// Whether a process other than its leader lives in a group.
fn group_has_others(group: u32) -> bool {
    members(group).any(|pid| pid != group)
}

/// Whether a worker's group may have this number. To signal group 1 is to signal every process there is (kill(2)),
/// and no worker is in ours.
pub(super) fn may_be_a_group(pid: Pid) -> bool {
    pid != Pid::INIT && pid != rustix::process::getpid() && pid.as_raw_pid() != own_group()
}

/// Our process group; 0 where its leader is of another PID namespace, which rustix holds impossible.
fn own_group() -> i32 {
    nix::unistd::getpgrp().as_raw()
}

/// The living processes of a group (proc_pid_stat(5)).
pub(super) fn members(group: u32) -> impl Iterator<Item = u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| {
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

#[cfg(test)]
mod tests {
    use super::super::Group;
    use super::*;
    use std::path::Path;

    /// To signal "its group" would be to signal everybody, or ourselves.
    #[test]
    fn no_process_with_a_dangerous_number_is_taken_over() {
        let group = own_group().unsigned_abs();
        for pid in [1, std::process::id(), group] {
            // The leader of our group may have ended.
            let started = start_time(pid).unwrap_or(1);
            let user = real_user(pid).unwrap_or(0);
            assert!(Process::adopt(pid, started, user).is_err(), "{pid}");
            assert!(Group::find(Some((pid, started)), Path::new("/x.sock"), user).is_none(), "{pid}");
        }
        for pid in [0, u32::MAX, 1 << 31] {
            assert!(Process::adopt(pid, 1, 0).is_err(), "{pid}");
            assert!(Group::find(Some((pid, 1)), Path::new("/x.sock"), 0).is_none(), "{pid}");
        }
    }
}
