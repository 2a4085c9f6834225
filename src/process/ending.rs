//! How a process ended. Of one that is not our child only its parent is told by wait(2); since Linux 6.15 a pidfd that was
//! opened while it lived tells, too, once its parent has reaped it (`PIDFD_GET_INFO` in linux/pidfd.h).

use nix::libc;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal {
        number: i32,
        core: bool,
    },
    /// It was not our child, and the kernel does not tell (Linux before 6.15).
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

/// `struct pidfd_info` in its first size, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`
const EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`
const GET_INFO: libc::c_ulong = (3 << 30) | ((size_of::<Info>() as libc::c_ulong) << 16) | (0xff << 8) | 11;

/// `None`: the kernel does not tell, or not yet.
pub(super) fn told_by(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the request's number carries the size of what the pointer leads to, which lives on this stack; older
    // kernels refuse the request.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if done != 0 || info.mask & EXIT == 0 {
        return None;
    }
    let status = info.exit_code;
    Some(match libc::WIFSIGNALED(status) {
        true => Exit::Signal { number: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) },
        false => Exit::Code(libc::WEXITSTATUS(status)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::os::fd::AsFd;
    use std::process::Command;

    #[test]
    fn a_pidfd_tells_how_it_ended() {
        for (script, expected) in
            [("exit 7", Exit::Code(7)), ("kill -9 $$", Exit::Signal { number: libc::SIGKILL, core: false })]
        {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("read x; {script}")]).stdin(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert_eq!(told_by(pidfd.as_fd()), None, "it lives");
            drop(child.stdin.take());
            child.wait().unwrap();
            // Kernels before 6.15 do not tell.
            assert!([None, Some(expected)].contains(&told_by(pidfd.as_fd())), "{script}");
        }
    }
}
