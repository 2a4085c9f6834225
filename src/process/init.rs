//! What the first process of a container must be: it passes signals on, reaps whoever dies without a parent, and
//! stays while proxies replace each other.
//!
//! When PID 1 ends, the kernel kills everything in its container. A proxy that is PID 1 could therefore never give
//! its workers to a successor. So the proxy that finds itself there forks before it has any thread: the child
//! goes on as the proxy, the parent only waits for signals here. It has no thread, opens no file and allocates next to nothing.
//!
//! The first proxy is the init's *main process*. A main process names its successor with [`succeeded_by`], and no one
//! else can: the init looks at who sent the signal. The end of a main process that has been succeeded changes
//! nothing; the end of the newest is the init's end, with the same exit code (128 and the number of the signal that killed it).

use super::Error;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{ForkResult, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions, pidfd_open, pidfd_send_signal, wait, waitid,
};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Asks for an init where the proxy is not PID 1 (`docker --init`, a pod with one process namespace): with `1`,
/// the init takes over the orphans of its descendants (PR_SET_CHILD_SUBREAPER).
const ASKED: &str = "PINGORA_UNIX_PROXY_INIT";
/// Tells every proxy below an init its process id.
const INIT_PID: &str = "PINGORA_UNIX_PROXY_INIT_PID";
/// Not for workers: a proxy that one of them starts is none of our init's business.
pub(super) const VARIABLES: [&str; 2] = [ASKED, INIT_PID];
/// The name of the init's process, at most 15 bytes. Nobody else gets our signal.
const NAME: &std::ffi::CStr = c"pup-init";
/// Carries the pid of a successor. A number of its own for glibc and musl alike, both of which take the first few of the
/// real-time signals for themselves.
const SUCCEEDED: libc::c_int = 40;
/// How often the init looks after a main process that is not its child: such an end is told by no signal.
const WATCH: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(3600);
/// How long proxies that were succeeded may take to end after the newest one has.
const LINGER: Duration = Duration::from_secs(5);
/// Main processes that are known at once; beyond it the oldest is forgotten.
const MOST: usize = 64;

/// Who returns from [`enter`].
pub(crate) enum Role {
    /// The proxy.
    Main,
    /// The init, at its end, with its exit code.
    Init(u8),
}

/// Becomes an init with the proxy as its child, if this process is PID 1 or was asked to.
///
/// Only while the process has a single thread. Fails when the system refuses the fork.
pub(crate) fn enter() -> Result<Role, Error> {
    let first = std::process::id() == 1;
    if !first && std::env::var_os(ASKED).is_none_or(|value| value != "1") {
        return Ok(Role::Main);
    }
    let failed = |e: nix::Error| Error::io("becoming the init of this container")(e.into());
    if !first {
        prctl::set_child_subreaper(true).map_err(failed)?;
    }
    let init = std::process::id();
    // Before the fork, so that no signal is missed between it and the first wait.
    let before = blocked().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(failed)?;
    // SAFETY: the process has one thread (the caller's promise), so the child's memory is whole and no lock is held.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            before.thread_set_mask().map_err(failed)?;
            introduce(init);
            Ok(Role::Main)
        }
        ForkResult::Parent { child } => {
            let _ = prctl::set_name(NAME);
            let _ = std::env::set_current_dir("/");
            // Sockets that were passed to the proxy would stay open here after it has closed them.
            // SAFETY: nothing in this process has opened a file beyond the standard ones, so no owner loses one.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
            let child = Pid::from_raw(child.as_raw());
            let child = child.and_then(Main::open).ok_or_else(|| failed(nix::Error::ESRCH))?;
            Ok(Role::Init(Init { mains: vec![child], stopping: false, code: None }.run()))
        }
    }
}

/// What a child of the init has to know.
fn introduce(init: u32) {
    let own = std::process::id().to_string();
    // SAFETY: one thread (the promise of `enter`), so nobody reads the environment meanwhile.
    unsafe {
        std::env::remove_var(ASKED);
        std::env::set_var(INIT_PID, init.to_string());
        // The service manager meant the process that it started; that is what the proxy is to everybody.
        for name in ["LISTEN_PID", "WATCHDOG_PID"] {
            if std::env::var(name).is_ok_and(|pid| pid == init.to_string()) {
                std::env::set_var(name, &own);
            }
        }
    }
}

/// Tells the init, if there is one, that from now on `successor` is the proxy, and that this process, so far the
/// newest one, may end. The init takes the word of the newest one only.
///
/// Does nothing without an init. Fails when the init cannot be told: then the end of this process ends the container.
pub(crate) fn succeeded_by(successor: u32) -> Result<(), Error> {
    let Some(init) = find() else { return Ok(()) };
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(successor as usize) };
    // SAFETY: a plain system call with plain numbers; the pointer is never followed.
    if unsafe { libc::sigqueue(init, SUCCEEDED, value) } == 0 {
        return Ok(());
    }
    Err(Error::io(format!("telling init process {init} of the successor"))(std::io::Error::last_os_error()))
}

/// The init above us. Its name is looked at, because on other machines PID 1 takes such a signal for an order.
fn find() -> Option<libc::pid_t> {
    let named = std::env::var(INIT_PID).ok().and_then(|pid| pid.parse().ok());
    let is_ours = |pid: &libc::pid_t| {
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_ascii_end() == NAME.to_bytes()
    };
    named.into_iter().chain([1]).filter(|pid| *pid > 0).find(is_ours)
}

/// All signals but those that tell of an error in this very process.
fn blocked() -> SigSet {
    let mut set = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGABRT,
        Signal::SIGSYS,
    ] {
        set.remove(fault);
    }
    set
}

/// A signal that came.
struct Told {
    number: libc::c_int,
    /// Who or what sent it: above 0 it was the kernel (sigaction(2)).
    code: libc::c_int,
    pid: libc::pid_t,
    value: usize,
}

/// The next signal of a set, all of which are blocked; `None` when none comes in time.
fn next(set: &libc::sigset_t, limit: Duration) -> Option<Told> {
    // SAFETY: zeroed is a valid siginfo_t and timespec, and all pointers are to values that live on this stack. The fields that
    // are read stand in every siginfo_t of a signal that was sent; of another they are numbers without meaning.
    unsafe {
        // Not written as a literal: its fields differ between C libraries.
        let mut time: libc::timespec = std::mem::zeroed();
        time.tv_sec = limit.as_secs() as _;
        time.tv_nsec = limit.subsec_nanos().into();
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let number = libc::sigtimedwait(set, &mut info, &time);
        (number > 0).then(|| Told {
            number,
            code: info.si_code,
            pid: info.si_pid(),
            value: info.si_value().sival_ptr.addr(),
        })
    }
}

/// The set with nothing but the word of a main process in it.
fn only_succeeded() -> libc::sigset_t {
    // SAFETY: plain calls on a value on this stack; zeroed is a valid sigset_t.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SUCCEEDED);
        set
    }
}

struct Main {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Main {
    /// `None` when there is no such process.
    fn open(pid: Pid) -> Option<Main> {
        Some(Main { pid, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()? })
    }

    fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1))
    }

    fn is_child(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(self.pidfd.as_fd()), look).is_ok()
    }

    fn signal(&self, number: libc::c_int) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
            // It may have ended; that is seen elsewhere.
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }
}

struct Init {
    /// Proxies, the newest last. Not empty until the newest has ended.
    mains: Vec<Main>,
    /// Whether an end was asked for.
    stopping: bool,
    /// Of the newest main process, once it has ended.
    code: Option<u8>,
}

impl Init {
    fn run(mut self) -> u8 {
        let (all, succeeded) = (blocked(), only_succeeded());
        let mut until = None;
        loop {
            let own = self.mains.last().is_none_or(Main::is_child);
            let wait = if own && until.is_none() { LONG } else { WATCH };
            if let Some(told) = next(all.as_ref(), wait) {
                self.hear(&told);
            }
            self.look(&succeeded);
            let Some(code) = self.code else { continue };
            let until = *until.get_or_insert_with(|| {
                self.mains.iter().for_each(|main| main.signal(libc::SIGTERM));
                Instant::now() + LINGER
            });
            if self.mains.is_empty() || Instant::now() >= until {
                return code;
            }
        }
    }

    fn hear(&mut self, told: &Told) {
        match told.number {
            libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU => {}
            SUCCEEDED => self.succeed(told),
            // A terminal's signals reach the whole foreground group, the proxy included.
            _ if told.code > 0 => {}
            number @ (libc::SIGTERM | libc::SIGINT) => {
                self.stopping = true;
                self.mains.iter().for_each(|main| main.signal(number));
            }
            number => self.mains.iter().rev().take(1).for_each(|main| main.signal(number)),
        }
    }

    fn succeed(&mut self, told: &Told) {
        if self.mains.last().is_none_or(|newest| newest.pid.as_raw_pid() != told.pid) {
            return say(&format!("process {} is not the proxy here and names no successor", told.pid));
        }
        let pid = i32::try_from(told.value).ok().and_then(Pid::from_raw);
        let known = pid.is_some_and(|pid| self.mains.iter().any(|main| main.pid == pid));
        match pid.filter(|_| !known).and_then(Main::open).filter(|main| !main.has_ended()) {
            Some(successor) => {
                if self.mains.len() == MOST {
                    self.mains.remove(0);
                }
                // What came before the change was for both.
                if self.stopping {
                    successor.signal(libc::SIGTERM);
                }
                self.mains.push(successor);
            }
            None => say(&format!("process {}, named as successor, does not run", told.value)),
        }
    }

    /// Reaps, and sees which main processes have ended.
    fn look(&mut self, succeeded: &libc::sigset_t) {
        // Before reaping: of one that has ended by now, the reaping finds the status if it is our child's.
        let mut ended: Vec<Pid> = self.mains.iter().filter(|main| main.has_ended()).map(|main| main.pid).collect();
        let mut codes = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.mains.iter().any(|main| main.pid == pid) {
                let code = status.exit_status().or(status.terminating_signal().map(|number| 128 + number));
                codes.push((pid, code.unwrap_or(1) as u8));
                if !ended.contains(&pid) {
                    ended.push(pid);
                }
            }
        }
        if ended.is_empty() {
            return;
        }
        // Its last word may stand behind the news of its end: signals are handed out by number.
        while let Some(told) = next(succeeded, Duration::ZERO) {
            self.succeed(&told);
        }
        if let Some(newest) = self.mains.last().filter(|newest| self.code.is_none() && ended.contains(&newest.pid)) {
            let told = codes.iter().find(|(pid, _)| *pid == newest.pid).map(|(_, code)| *code);
            // Somebody else's child: nobody tells us how it ended.
            let code = told.unwrap_or(u8::from(!self.stopping));
            if code > 128 {
                say(&format!("the proxy, process {}, was killed by signal {}", newest.pid.as_raw_pid(), code - 128));
            }
            self.code = Some(code);
        }
        self.mains.retain(|main| !ended.contains(&main.pid));
    }
}

fn say(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "pingora-unix-proxy: init: {text}");
}
