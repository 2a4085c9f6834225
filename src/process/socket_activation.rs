//! Listening sockets that were opened by whoever started us: systemd's socket activation (sd_listen_fds(3)).

use rustix::io::{FdFlags, fcntl_setfd};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first file descriptor that is passed.
const FIRST: RawFd = 3;
/// More are not taken: a configuration has fewer listeners.
const MOST: usize = 256;

/// What the environment says of sockets that are passed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    /// One per socket; empty where none is known.
    names: Vec<String>,
}

impl Passed {
    fn read(var: impl Fn(&str) -> Option<String>, own_pid: u32) -> Passed {
        let number = |name: &str| var(name).and_then(|text| text.trim().parse::<u32>().ok());
        // Meant for another process, which handed its environment on to us.
        if number("LISTEN_PID") != Some(own_pid) {
            return Passed::default();
        }
        let count = number("LISTEN_FDS").and_then(|n| usize::try_from(n).ok()).unwrap_or(0).min(MOST);
        let names = var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = names.split(':').map(str::to_owned).collect();
        names.resize(count, String::new());
        Passed { names }
    }
}

/// Takes the sockets that systemd passed, each with the name it gave it. They are there once: a second call
/// finds none. To be called before this process opens files of its own.
pub(crate) fn take() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Vec::new();
    }
    let passed = Passed::read(|name| std::env::var(name).ok(), std::process::id());
    let mut taken = Vec::new();
    for (fd, name) in (FIRST..).zip(passed.names) {
        // SAFETY: the borrow ends in this statement; a number that is not open makes the call fail with EBADF.
        let open = fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC);
        if let Err(error) = open {
            log::warn!("socket activation: file descriptor {fd} was announced and cannot be used: {error}");
            continue;
        }
        // SAFETY: it is open, and LISTEN_PID says that it was passed for us to own; nobody else in this process
        // knows its number, and TAKEN makes this the only time.
        taken.push((name, unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Vec<String> {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Passed::read(var, 7).names
    }

    #[test]
    fn only_what_was_passed_to_this_process() {
        assert_eq!(read(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "web")]), ["web", ""]);
        assert_eq!(read(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "a:b")]), ["a"]);
        assert_eq!(read(&[("LISTEN_PID", "8"), ("LISTEN_FDS", "2")]).len(), 0);
        assert_eq!(read(&[("LISTEN_FDS", "2")]).len(), 0);
        assert_eq!(read(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "-1")]).len(), 0);
        assert_eq!(read(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "4000000000")]).len(), MOST);
    }
}
