//! What the first process of a container must be: it passes signals on, reaps whoever dies without a parent, and
//! stays while proxies replace each other.
//!
//! When PID 1 ends, the kernel kills everything in its container. A proxy that is PID 1 could therefore never give
//! its workers to a successor. So the proxy that finds itself there forks before it has any thread: the child
//! goes on as the proxy, the parent only waits for signals here. It has no thread, opens no file and allocates next to nothing.
//!
//! One proxy at a time is the *owner* of what the container does: first the one that the init started. It names its successor
//! with [`promise_to`] when it begins to give everything away, and retires with [`succeeded_by`] when that is done. No one
//! else can: the init looks at who sent the signal. If the owner ends unasked, its successor is the owner; if the successor ends, nothing has changed.
//! When there is neither, the init ends, with the exit code of the last owner (128 and the number of the signal that killed it).

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
const SUCCESSION: libc::c_int = 40;
/// Beside the pid, which never has this bit: the sender retires.
const RETIRES: usize = 1 << 31;
/// How often the init looks after a proxy that is not its child: such an end is told by no signal.
const WATCH: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(3600);
/// How long retired proxies may take to end after the last owner.
const LINGER: Duration = Duration::from_secs(5);
/// Proxies that are known at once; beyond it the oldest that has retired is forgotten.
const MOST: usize = 64;

/// Who returns from [`enter`].
pub(crate) enum Role {
    /// The proxy.
    Main,
    /// The init, at its end, with its exit code.
    Init(u8),
}

/// Signals wait while this lives, if this process is PID 1: whatever comes to a first process that neither blocks nor handles it
/// is dropped by the kernel, so a SIGTERM in the first moment would be lost.
pub(crate) struct Held(Option<SigSet>);

/// To be called before anything else.
pub(crate) fn hold_signals() -> Held {
    let first = std::process::id() == 1;
    Held(first.then(|| blocked().thread_swap_mask(SigmaskHow::SIG_SETMASK).ok()).flatten())
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = before.thread_set_mask();
        }
    }
}

/// Becomes an init with the proxy as its child, if this process is PID 1 or was asked to.
///
/// Only while the process has a single thread. Fails when the system refuses the fork.
pub(crate) fn enter(mut held: Held) -> Result<Role, Error> {
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
    let before = held.0.take().unwrap_or(before);
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
            let child = child.and_then(Member::open).ok_or_else(|| failed(nix::Error::ESRCH))?;
            Ok(Role::Init(Init { proxies: vec![child], stopping: false, code: None }.run()))
        }
    }
}

/// What a child of the init has to know.
fn introduce(init: u32) {
    // SAFETY: one thread (the promise of `enter`), so nobody reads the environment meanwhile.
    unsafe {
        std::env::remove_var(ASKED);
        std::env::set_var(INIT_PID, init.to_string());
        meant_for_us(init);
    }
}

/// What the service manager has said to the process that it started, it says to the proxy that this one is.
///
/// # Safety
/// The process has one thread.
pub(super) unsafe fn meant_for_us(started: u32) {
    let own = std::process::id().to_string();
    for name in ["LISTEN_PID", "WATCHDOG_PID"] {
        if std::env::var(name).is_ok_and(|pid| pid == started.to_string()) {
            // SAFETY: nobody reads the environment meanwhile (the caller's promise).
            unsafe { std::env::set_var(name, &own) };
        }
    }
}

/// Whether an init of ours has started this process, and lives as long as it.
pub(crate) fn is_parent() -> bool {
    find().is_some_and(|init| init == nix::unistd::getppid().as_raw())
}

/// Tells the init, if there is one, that `successor` (of this process namespace) is to be the proxy should this one end from now on.
/// For the owner, when it begins to give everything away; another call names another.
///
/// Does nothing without an init. Fails when the init cannot be told: then the end of this process ends the container.
pub(crate) fn promise_to(successor: u32) -> Result<(), Error> {
    tell(successor, 0)
}

/// Tells the init, if there is one, that `successor` is the proxy, and this process only finishes what it has begun.
///
/// Does nothing without an init. Fails as [`promise_to`] does.
pub(crate) fn succeeded_by(successor: u32) -> Result<(), Error> {
    tell(successor, RETIRES)
}

fn tell(successor: u32, more: usize) -> Result<(), Error> {
    let Some(init) = find() else { return Ok(()) };
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(successor as usize | more) };
    // SAFETY: a plain system call with plain numbers; the pointer is never followed.
    if unsafe { libc::sigqueue(init, SUCCESSION, value) } == 0 {
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

/// The set with nothing but the word of an owner in it.
fn only_succession() -> libc::sigset_t {
    // SAFETY: plain calls on a value on this stack; zeroed is a valid sigset_t.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SUCCESSION);
        set
    }
}

/// A proxy.
struct Member {
    pid: Pid,
    pidfd: OwnedFd,
    retired: bool,
}

impl Member {
    /// `None` when there is no such process.
    fn open(pid: Pid) -> Option<Member> {
        Some(Member { pid, pidfd: pidfd_open(pid, PidfdFlags::empty()).ok()?, retired: false })
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
    /// Those that have retired, the owner, its successors: in this order.
    proxies: Vec<Member>,
    /// Whether an end was asked for.
    stopping: bool,
    /// Of the last owner, once it has ended.
    code: Option<u8>,
}

impl Init {
    fn run(mut self) -> u8 {
        let (all, succession) = (blocked(), only_succession());
        let mut until = None;
        loop {
            let told_of_ends = self.proxies.iter().all(Member::is_child);
            let wait = if told_of_ends && until.is_none() { LONG } else { WATCH };
            if let Some(told) = next(all.as_ref(), wait) {
                self.hear(&told);
            }
            self.look(&succession);
            let Some(code) = self.code else { continue };
            let until = *until.get_or_insert_with(|| {
                self.proxies.iter().for_each(|proxy| proxy.signal(libc::SIGTERM));
                Instant::now() + LINGER
            });
            if self.proxies.is_empty() || Instant::now() >= until {
                return code;
            }
        }
    }

    fn owner(&self) -> Option<&Member> {
        self.proxies.iter().find(|proxy| !proxy.retired)
    }

    fn hear(&mut self, told: &Told) {
        match told.number {
            libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU => {}
            SUCCESSION => self.succession(told),
            // A terminal's signals reach the whole foreground group, the proxy included.
            _ if told.code > 0 => {}
            number @ (libc::SIGTERM | libc::SIGINT) => {
                self.stopping = true;
                let retired = self.proxies.iter().filter(|proxy| proxy.retired);
                retired.chain(self.owner()).for_each(|proxy| proxy.signal(number));
            }
            number => self.owner().into_iter().for_each(|owner| owner.signal(number)),
        }
    }

    fn succession(&mut self, told: &Told) {
        let owner = self.owner().map(|owner| owner.pid).filter(|owner| owner.as_raw_pid() == told.pid);
        let Some(owner) = owner else {
            return say(&format!("process {} is not the proxy here and names no successor", told.pid));
        };
        let pid = i32::try_from(told.value & !RETIRES).ok().and_then(Pid::from_raw).filter(|pid| *pid != owner);
        let named = pid.and_then(Member::open).filter(|proxy| !proxy.has_ended());
        let Some(successor) = named else {
            return say(&format!("process {}, named as successor, does not run", told.value & !RETIRES));
        };
        let retires = told.value & RETIRES != 0;
        // Whoever was named before is the successor no more.
        self.proxies.retain(|proxy| proxy.retired || proxy.pid == owner);
        self.proxies.iter_mut().for_each(|proxy| proxy.retired |= retires);
        if self.proxies.len() == MOST {
            self.proxies.remove(0);
        }
        if retires && self.stopping {
            successor.signal(libc::SIGTERM);
        }
        self.proxies.push(successor);
    }

    /// Reaps, and sees which proxies have ended.
    fn look(&mut self, succession: &libc::sigset_t) {
        // Before reaping: of a child that has ended by now, the reaping finds the status.
        let mut ended: Vec<(Pid, Option<u8>)> = Vec::new();
        ended.extend(self.proxies.iter().filter(|proxy| proxy.has_ended()).map(|proxy| (proxy.pid, None)));
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.proxies.iter().any(|proxy| proxy.pid == pid) {
                let code = status.exit_status().or(status.terminating_signal().map(|number| 128 + number));
                ended.retain(|(known, _)| *known != pid);
                ended.push((pid, code.and_then(|code| u8::try_from(code).ok())));
            }
        }
        if ended.is_empty() {
            return;
        }
        // Its last word may stand behind the news of its end: signals are handed out by number.
        while let Some(told) = next(succession, Duration::ZERO) {
            self.succession(&told);
        }
        for (pid, code) in ended {
            let owned = self.owner().is_some_and(|owner| owner.pid == pid);
            self.proxies.retain(|proxy| proxy.pid != pid);
            if owned {
                self.bereaved(pid, code);
            }
        }
    }

    /// The owner has ended.
    fn bereaved(&mut self, pid: Pid, code: Option<u8>) {
        if let Some(code) = code.filter(|code| *code > 128) {
            say(&format!("the proxy, process {}, was killed by signal {}", pid.as_raw_pid(), code - 128));
        }
        // An end that was asked for is nobody's inheritance.
        if self.stopping || self.owner().is_none() {
            // Of somebody else's child nobody tells how it ended.
            self.code.get_or_insert(code.unwrap_or(u8::from(!self.stopping)));
        }
    }
}

fn say(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "pingora-unix-proxy: init: {text}");
}
