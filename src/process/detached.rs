//! Starting a process that is nobody's child here: the init, or whoever reaps orphans in its place, is its parent from the
//! beginning. So a service manager that takes it for its main process is told of its end, whether or not we live on.

use nix::libc;
use nix::unistd::{ForkResult, fork, pipe2};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Returns the process id. Blocks for the milliseconds of two forks and exec.
///
/// # Errors
/// As [`Command::spawn`].
pub(crate) fn spawn_detached(command: &mut Command) -> io::Result<u32> {
    let (pid_out, pid_in) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let number = pid_in.as_raw_fd();
    let second_fork = move || {
        // SAFETY: this is the child of a fork that will exec or end; between here and there stand plain system calls only.
        match unsafe { fork() }? {
            ForkResult::Child => Ok(()),
            ForkResult::Parent { child } => {
                let pid = child.as_raw().to_ne_bytes();
                // SAFETY: the bytes live on this stack, and the pipe is open as long as `pid_in` in the parent is.
                // Nothing may run at this end but the end itself.
                unsafe {
                    libc::write(number, pid.as_ptr().cast(), pid.len());
                    libc::_exit(0)
                }
            }
        }
    };
    // SAFETY: see there.
    unsafe { command.pre_exec(second_fork) };
    let mut between = command.spawn()?;
    // Once it is reaped, what it has left behind has another parent.
    between.wait()?;
    drop(pid_in);
    let mut pid = [0; size_of::<libc::pid_t>()];
    File::from(pid_out).read_exact(&mut pid)?;
    u32::try_from(libc::pid_t::from_ne_bytes(pid)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Field 4 of proc_pid_stat(5).
    fn parent(pid: u32) -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    }

    #[test]
    fn it_is_not_our_child_and_runs() {
        let out = std::env::temp_dir().join(format!("pup-apart-{}", std::process::id()));
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 5", out.display())]);
        let pid = spawn_detached(&mut command).unwrap();
        assert_ne!(parent(pid).unwrap(), std::process::id());
        let end = Instant::now() + Duration::from_secs(5);
        let told = loop {
            match std::fs::read_to_string(&out) {
                Ok(text) => break text,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(told.trim().parse(), Ok(pid));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
        std::fs::remove_file(out).unwrap();
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let error = spawn_detached(&mut Command::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
