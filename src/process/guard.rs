//! A process of our own that outlives the proxy, so that nothing is left when nobody comes back.
//!
//! Workers with the preload script end by themselves when no proxy comes (`orphan_timeout`). Others do not know
//! of a proxy, and sockets, FIFOs and directories end for nobody. So the proxy that owns the workers starts this
//! program once more. That process sleeps until the pipe that is its stdin has no writer any more. Then it looks
//! for the next proxy for `orphan_timeout`. If there is none it takes the runtime directory like one.
//!
//! It leads a session of its own, for Ctrl-C in the proxy's terminal is not meant for it. SIGTERM means "now":
//! while the proxy lives that waits, since a proxy that stops in order also ends its guard; once it is dead,
//! the guard waits no longer for another.

use super::runtime_dir::is_in_use;
use super::{Error, RuntimeDir};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, test_kill_process};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where `ps` shows it, before the proxy's process id.
const TITLE: &str = "pingora-unix-proxy: guard of ";
/// The name of the process, at most 15 bytes.
const NAME: &std::ffi::CStr = c"pup-guard";
/// The word that makes this program a guard; nobody else says it.
const VERB: &str = "--guard-of";
/// What is for the proxy that the service manager started.
const NOT_PASSED_ON: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
/// Between two looks for the next proxy.
const LOOK: Duration = Duration::from_millis(200);
/// A proxy that has lived so long with the directory has a guard of its own.
const SETTLED: Duration = Duration::from_secs(2);
/// For a holder of the lock who is not known, such as a proxy that finishes after it has handed over.
const HOLDER: Duration = Duration::from_secs(3600);
/// For the end of a guard that is not needed any more.
const END: Duration = Duration::from_secs(1);

/// The proxy's end of it. When that is dropped, the guard takes it for the proxy's end.
#[derive(Debug)]
pub(crate) struct Guard(Child);

impl Guard {
    /// `beyond`: sockets and files with our process id that are not in the directory. Blocks for the milliseconds of
    /// a fork and exec.
    pub(crate) fn start(dir: &Path, orphan_timeout: Duration, beyond: &[PathBuf]) -> Result<Guard, Error> {
        let own = std::process::id().to_string();
        // Also finds a program that was replaced or removed since.
        let mut command = Command::new("/proc/self/exe");
        command.arg0(format!("{TITLE}{own}")).arg(VERB).arg(&own);
        command.arg(orphan_timeout.as_millis().to_string()).arg(dir).args(beyond);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit()).current_dir("/");
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        command.spawn().map(Guard).map_err(Error::io("starting the guard"))
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }

    /// Another proxy has everything. The guard stays until that one has a guard of its own, for it may die before.
    /// Ends with the guard.
    pub(crate) async fn leave(mut self) {
        drop(self.0.stdin.take());
        while !self.has_ended() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nothing is left that it could look after.
    pub(crate) async fn end(mut self) {
        // It holds nothing that would have to be given back.
        let _ = self.0.kill();
        let until = Instant::now() + END;
        while !self.has_ended() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What a guard has to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Post {
    /// The proxy.
    pid: u32,
    orphan_timeout: Duration,
    dir: PathBuf,
    /// What else it may have left.
    beyond: Vec<PathBuf>,
}

impl Post {
    /// From a command line, with the program's name.
    pub(crate) fn told(args: &[OsString]) -> Option<Post> {
        let [_, verb, pid, millis, dir, beyond @ ..] = args else { return None };
        if verb != OsStr::new(VERB) {
            return None;
        }
        let number = |word: &OsStr| word.to_str()?.parse::<u64>().ok();
        let pid = u32::try_from(number(pid)?).ok()?;
        let beyond = beyond.iter().map(PathBuf::from).collect();
        Some(Post { pid, orphan_timeout: Duration::from_millis(number(millis)?), dir: dir.into(), beyond })
    }

    /// The process id of the proxy.
    pub(crate) fn of(&self) -> u32 {
        self.pid
    }

    /// Sleeps until the proxy is gone and nobody took its place; returns the directory, which is ours then.
    /// `None`: nothing is left, or another looks after it.
    ///
    /// For a process of its own that has one thread and has opened nothing yet.
    pub(crate) fn keep(&self) -> Result<Option<RuntimeDir>, Error> {
        let failed = |e: nix::Error| Error::io("starting the guard")(e.into());
        let _ = rustix::process::setsid();
        let _ = prctl::set_name(NAME);
        // Whoever waits for the end of a pipe that the proxy's caller left open must not wait for us.
        // SAFETY: nothing in this process has opened a file beyond the standard ones, so no owner loses one.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
        let mut all = SigSet::all();
        [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT]
            .into_iter()
            .for_each(|fault| all.remove(fault));
        all.thread_block().map_err(failed)?;
        let asked = SignalFd::with_flags(&Signal::SIGTERM.into(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let asked = asked.map_err(failed)?;
        until_deserted().map_err(Error::io("waiting for the end of the proxy"))?;
        self.find_next(&asked)
    }

    /// Removes what the proxy has left elsewhere. To be asked while the directory is ours.
    pub(crate) fn clear_beyond(&self) {
        for path in &self.beyond {
            let Ok(kind) = fs::symlink_metadata(path).map(|meta| meta.file_type()) else { continue };
            let is_left = if kind.is_socket() {
                !is_in_use(path)
            } else {
                kind.is_file() && RuntimeDir::number_in(path) == Some(self.pid)
            };
            if is_left {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn find_next(&self, asked: &SignalFd) -> Result<Option<RuntimeDir>, Error> {
        let mut due = Instant::now() + self.orphan_timeout;
        let mut next: Option<(u32, Instant)> = None;
        let latest = due + HOLDER;
        while Instant::now() < latest {
            let Some(holder) = RuntimeDir::holder(&self.dir) else { return Ok(None) };
            let now = Instant::now();
            next = match holder {
                Some(pid) if pid != self.pid && is_alive(pid) => {
                    let since = next.filter(|(known, _)| *known == pid).map_or(now, |(_, since)| since);
                    if now >= since + SETTLED {
                        return Ok(None);
                    }
                    due = now + self.orphan_timeout;
                    Some((pid, since))
                }
                _ => None,
            };
            let is_due = now >= due || is_readable(asked, Duration::ZERO);
            if is_due && next.is_none() {
                match RuntimeDir::reclaim(&self.dir) {
                    Err(Error::InUse { .. }) => {}
                    taken => return taken,
                }
            }
            if is_due {
                std::thread::sleep(LOOK);
            } else {
                is_readable(asked, LOOK.min(due.saturating_duration_since(now)));
            }
        }
        Ok(None)
    }
}

/// Until nobody can write into our stdin.
fn until_deserted() -> io::Result<()> {
    let stdin = io::stdin();
    let kind = rustix::fs::fstat(stdin.as_fd())?.st_mode;
    if rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::Fifo {
        return Err(io::Error::other("it is only started by a proxy"));
    }
    loop {
        let mut pipe = [PollFd::new(&stdin, PollFlags::empty())];
        match poll(&mut pipe, None) {
            Ok(_) if pipe[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn is_readable(fd: &SignalFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)), Ok(1))
}

pub(super) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_its_own_words_make_a_guard() {
        let told = |words: &[&str]| Post::told(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let post = Post { pid: 7, orphan_timeout: Duration::from_millis(1500), dir: "/run/x".into(), beyond: vec![] };
        assert_eq!(told(&["p", VERB, "7", "1500", "/run/x"]), Some(post));
        let beyond = told(&["p", VERB, "7", "1500", "/run/x", "/a", "/b"]).map(|post| post.beyond);
        assert_eq!(beyond, Some(vec!["/a".into(), "/b".into()]));
        for words in [&["p"][..], &["p", "-c", "7", "1", "/x"], &["p", VERB, "7", "x", "/x"], &["p", VERB, "7", "1"]] {
            assert_eq!(told(words), None);
        }
    }

    #[test]
    fn beyond_the_directory_only_what_was_the_proxys_goes() {
        let temp = Temp::new();
        let path = |name: &str| temp.0.join(name);
        drop(UnixListener::bind(path("dead.sock")).unwrap());
        let _living = UnixListener::bind(path("living.sock")).unwrap();
        fs::write(path("own.pid"), "7\n").unwrap();
        fs::write(path("other.pid"), "8\n").unwrap();
        std::os::unix::fs::symlink(path("own.pid"), path("link")).unwrap();
        let names = ["dead.sock", "living.sock", "own.pid", "other.pid", "link", "missing"];
        let beyond = names.map(path).to_vec();
        Post { pid: 7, orphan_timeout: Duration::ZERO, dir: path("run"), beyond }.clear_beyond();
        let left = names.map(|name| path(name).symlink_metadata().is_ok());
        assert_eq!(left, [false, true, false, true, true, false]);
    }
}
