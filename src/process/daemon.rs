//! Running in the background: the command ends when the proxy is there, and nothing of whoever called it is kept.
//!
//! Before it has any thread the process forks twice. The command stays the caller's child and reads a pipe; the proxy
//! goes on in a session of its own and says through that pipe when the command may end, and how. What it holds
//! of its caller's (stdin, stdout, stderr, a pipe or a lock that a script left open) it lets go before that.

use super::Error;
use super::init::meant_for_us;
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2, setsid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::ExitCode;

/// In the environment of a successor that was started by its predecessor, which is in the background as it should be.
pub(crate) const DETACHED: &str = "PINGORA_UNIX_PROXY_DETACHED";
/// A file descriptor beyond those of the standard streams.
const FIRST: i32 = 3;

/// Who returns from [`enter`].
pub(crate) enum Role {
    /// The proxy, in the background.
    Daemon(Caller),
    /// What was called, when it may end: how, and why if not well and nobody has said so yet.
    Command(ExitCode, Option<String>),
}

/// The proxy's end of the pipe to the command that started it. Dropped without a word it tells of a failure.
#[derive(Debug)]
pub(crate) struct Caller(File);

/// Forks. Only while the process has a single thread.
///
/// # Errors
/// The system refuses.
pub(crate) fn enter() -> Result<Role, Error> {
    let failed = |e: nix::Error| Error::io("going into the background")(e.into());
    let called = std::process::id();
    let foreign = foreign_descriptors();
    let (hears, tells) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed)?;
    // SAFETY: the process has one thread (the caller's promise), so the child's memory is whole and no lock is held.
    if let ForkResult::Parent { child } = unsafe { fork() }.map_err(failed)? {
        drop(tells);
        let _ = waitpid(child, None);
        let (code, why) = hear(File::from(hears));
        return Ok(Role::Command(code, why));
    }
    setsid().map_err(failed)?;
    // A leader of a session could get a terminal by opening one; its child cannot.
    // SAFETY: as above.
    if let ForkResult::Parent { .. } = unsafe { fork() }.map_err(failed)? {
        // SAFETY: it runs nothing that belongs to the command, and ends this process.
        unsafe { libc::_exit(0) };
    }
    drop(hears);
    for fd in foreign {
        // SAFETY: whatever this process opens is closed by an exec; this was not, so nobody here owns it.
        unsafe { libc::close(fd) };
    }
    // SAFETY: one thread, so nobody reads the environment meanwhile.
    unsafe { meant_for_us(called) };
    Ok(Role::Daemon(Caller(tells.into())))
}

/// What the caller has left open: whatever survived the exec, but for sockets that were passed to us on purpose.
fn foreign_descriptors() -> Vec<i32> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let is_ours = number("LISTEN_PID").is_some_and(|pid| pid.cast_unsigned() == std::process::id());
    let passed = number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0);
    let first = FIRST.saturating_add(passed.max(0));
    let survived = |fd: &i32| {
        // SAFETY: a plain system call; of a number that is not open it tells so.
        let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
        flags >= 0 && flags & libc::FD_CLOEXEC == 0
    };
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let listed = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    listed.filter(|fd| *fd >= first).filter(survived).collect()
}

/// Waits for the proxy's word: one byte, the exit code; after any but 0, why. A proxy that has failed is waited for
/// until it has ended.
fn hear(mut pipe: File) -> (ExitCode, Option<String>) {
    let mut code = [0];
    match pipe.read_exact(&mut code) {
        Ok(()) if code == [0] => return (ExitCode::SUCCESS, None),
        Ok(()) => {}
        Err(_) => return (ExitCode::FAILURE, Some("the process in the background ended before it was ready".into())),
    }
    let mut why = Vec::new();
    let _ = pipe.read_to_end(&mut why);
    let why = String::from_utf8_lossy(&why).into_owned();
    (ExitCode::from(code[0]), Some(why).filter(|why| !why.is_empty()))
}

impl Caller {
    /// The command ends well.
    pub(crate) fn release(mut self) {
        // Whoever has ended already needs no word.
        let _ = self.0.write_all(&[0]);
    }

    /// The command ends with this code (not 0) when this process has ended; `why` is empty if that was said already.
    pub(crate) fn refuse(mut self, code: u8, why: &str) {
        let _ = self.0.write_all(&[&[code], why.as_bytes()].concat());
        // The end of the pipe is the end of this process.
        std::mem::forget(self);
    }

    /// Whether the command has ended without waiting for us.
    pub(crate) fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

/// Where the log and what goes to stdout are to go.
#[derive(Debug)]
pub(crate) struct Streams {
    error_log: Option<File>,
}

impl Streams {
    /// # Errors
    /// The file cannot be opened for writing.
    pub(crate) fn open(error_log: Option<&Path>) -> Result<Streams, Error> {
        let open = |path: &Path| {
            // Read, too: a FIFO without a reader would fail.
            let opened =
                OpenOptions::new().append(true).create(true).read(true).custom_flags(libc::O_NONBLOCK).open(path);
            opened.map_err(Error::io(format!("opening {} (server.error_log)", path.display())))
        };
        Ok(Streams { error_log: error_log.map(open).transpose()? })
    }

    /// Whether what is said on stdout, and on stderr, is dropped from now on.
    pub(crate) fn drops(&self) -> (bool, bool) {
        let drops = |stream: BorrowedFd<'_>| self.error_log.is_none() && !is_kept(stream);
        (drops(io::stdout().as_fd()), drops(io::stderr().as_fd()))
    }

    /// Lets go of the caller's standard streams.
    pub(crate) fn replace(self) -> io::Result<()> {
        let (drops_out, drops_err) = self.drops();
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        if let Some(log) = &self.error_log {
            rustix::stdio::dup2_stdout(log)?;
            rustix::stdio::dup2_stderr(log)?;
        }
        if drops_out {
            rustix::stdio::dup2_stdout(&null)?;
        }
        if drops_err {
            rustix::stdio::dup2_stderr(&null)?;
        }
        Ok(())
    }
}

/// A stream that nobody waits for the end of: a file, `/dev/null`, systemd's journal.
fn is_kept(stream: BorrowedFd<'_>) -> bool {
    let Ok(meta) = stream.try_clone_to_owned().and_then(|fd| File::from(fd).metadata()) else { return false };
    let kind = meta.file_type();
    let is_null = || std::fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == meta.rdev());
    // systemd.exec(5): device and inode, in decimal.
    let is_journal =
        || std::env::var("JOURNAL_STREAM").is_ok_and(|name| name == format!("{}:{}", meta.dev(), meta.ino()));
    kind.is_file() || (kind.is_char_device() && is_null()) || (kind.is_socket() && is_journal())
}
