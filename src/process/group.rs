//! The process group of a worker whose proxy is gone, whether or not its leader lives.

use super::exit::{may_be_a_group, members};
use super::usage::{real_user, start_time};
use super::{Error, Process, state};
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::{Path, PathBuf};

/// Signals go to the whole group, and never to a stranger.
#[derive(Debug)]
pub(crate) struct Group {
    id: u32,
    /// Its leader, if that has not been reaped.
    leader: Option<Process>,
    socket: PathBuf,
    uid: u32,
}

impl Group {
    /// `leader`: number and start time (proc_pid_stat(5), field 22), if they were written down. `socket` is that
    /// of the worker, which runs as user `uid`.
    ///
    /// `None` when no process of it lives, or none that is surely the worker's.
    pub(crate) fn find(leader: Option<(u32, u64)>, socket: &Path, uid: u32) -> Option<Group> {
        let born = || {
            let pid = state::find_worker(socket, uid)?;
            Some((pid, start_time(pid).ok()?))
        };
        let (id, started) = leader.or_else(born)?;
        i32::try_from(id).ok().and_then(Pid::from_raw).filter(|id| may_be_a_group(*id))?;
        let leader = Process::adopt(id, started, uid).ok();
        let group = Group { id, leader, socket: socket.into(), uid };
        group.lives().then_some(group)
    }

    pub(crate) fn lives(&self) -> bool {
        match &self.leader {
            Some(leader) => leader.is_alive() || members(self.id).next().is_some(),
            // The kernel gives a number to nobody while a group has it, but this may be the group of a later
            // process with that number. What a worker has started has its socket in its environment.
            None => members(self.id).any(|pid| {
                state::serves(pid, &self.socket) && real_user(pid).is_ok_and(|user| user == self.uid || self.uid == 0)
            }),
        }
    }

    /// Nothing happens when it is gone.
    pub(crate) fn signal(&self, number: i32) -> Result<(), Error> {
        if let Some(leader) = &self.leader {
            return leader.signal_group(number);
        }
        let doing = || format!("sending signal {number} to process group {}", self.id);
        let group = i32::try_from(self.id).ok().and_then(Pid::from_raw).zip(Signal::from_named_raw(number));
        let (group, signal) = group.ok_or_else(|| Error::io(doing())(std::io::ErrorKind::InvalidInput.into()))?;
        if !self.lives() {
            return Ok(());
        }
        match kill_process_group(group, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io(doing())(e.into())),
        }
    }

    pub(crate) fn kill(&self) -> Result<(), Error> {
        self.signal(Signal::KILL.as_raw())
    }
}
