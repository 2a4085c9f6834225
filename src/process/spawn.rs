//! Starting a worker's process.

use super::environment::{environment, fill};
use super::spec::{Identity, Spec};
use super::{Error, Process, files};
use crate::worker::WorkerId;
use nix::libc;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everything one process needs.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) id: &'a WorkerId,
    pub(crate) spec: &'a Spec,
    pub(crate) socket: &'a Path,
    /// Of the runtime directory.
    pub(crate) instance: &'a str,
    pub(crate) preload: Option<Preload<'a>>,
    pub(crate) stdout: File,
    pub(crate) stderr: File,
}

/// What a Node.js worker gets beside the socket.
#[derive(Clone, Debug)]
pub(crate) struct Preload<'a> {
    pub(crate) script: &'a Path,
    /// Value of `PINGORA_UNIX_PROXY_WORKER` (docs/protocol.md).
    pub(crate) worker: String,
}

/// Starts the process as leader of its own group. Blocks for the milliseconds of fork and exec.
pub(crate) fn spawn(job: Job<'_>) -> Result<Process, Error> {
    let spec = job.spec;
    let words: Vec<String> = spec.command.iter().map(|word| fill(word, job.socket, job.id.slot)).collect();
    let (program, arguments) = words.split_first().ok_or(Error::EmptyCommand)?;
    if !spec.cwd.is_dir() {
        let source = std::fs::metadata(&spec.cwd).err().unwrap_or_else(|| io::ErrorKind::NotADirectory.into());
        return Err(Error::Cwd { path: spec.cwd.clone(), source });
    }
    let preload = job.preload.map(|preload| (preload.script, preload.worker));
    let env = environment(std::env::vars_os(), spec, (job.socket, job.instance), job.id.slot, preload);
    let path = find(program, &spec.cwd, &env)?;
    let mut command = Command::new(&path);
    command.arg0(program).args(arguments).env_clear().envs(&env).process_group(0);
    command.stdin(Stdio::null()).stdout(job.stdout).stderr(job.stderr);
    prepare(&mut command, spec)?;
    let mut child = command.spawn().map_err(|e| explain(e, spec, &path))?;
    // Nobody but `Process::wait` reaps it, so the number is its own until then.
    Process::open(child.id()).inspect_err(|_| {
        // Out of file descriptors, most likely: a process that cannot be watched must not run.
        let _ = child.kill().and_then(|()| child.wait());
    })
}

/// Where exec will find the program: relative to the worker's directory, or in the worker's PATH.
fn find(program: &str, cwd: &Path, env: &BTreeMap<OsString, OsString>) -> Result<PathBuf, Error> {
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![cwd.join(program)]
    } else {
        let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
        std::env::split_paths(&path).map(|dir| cwd.join(dir).join(program)).collect()
    };
    let is_program =
        |path: &&PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if let Some(path) = candidates.iter().find(is_program) {
        return Ok(path.clone());
    }
    match candidates.into_iter().partition::<Vec<_>, _>(|path| path.exists()) {
        (mut present, _) if !present.is_empty() => Err(Error::NotExecutable { path: present.swap_remove(0) }),
        (_, looked_in) => Err(Error::ProgramNotFound { program: program.to_owned(), looked_in }),
    }
}

/// The step of the child that failed, carried in the upper half of the error number: the standard
/// library hands the parent that number and nothing else.
#[derive(Clone, Copy)]
enum Step {
    Groups = 1,
    Group = 2,
    User = 3,
    Cwd = 4,
    Files = 5,
    Limits = 6,
}

fn check(step: Step, result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    Err(io::Error::from_raw_os_error((step as i32) << 16 | errno))
}

fn explain(error: io::Error, spec: &Spec, program: &Path) -> Error {
    let raw = error.raw_os_error().unwrap_or(0);
    let source = io::Error::from_raw_os_error(raw & 0xffff);
    let identity = |doing| {
        let user = spec.user.as_ref().map_or_else(String::new, |user| user.name.clone());
        move |source| Error::Identity { user, doing, source }
    };
    match raw >> 16 {
        1 => identity("setting its groups")(source),
        2 => identity("setting its group")(source),
        3 => identity("setting its user id")(source),
        4 => Error::Cwd { path: spec.cwd.clone(), source },
        5 => Error::io("closing our files for the worker")(source),
        6 => Error::io("setting its rlimits (only root can raise them above the proxy's own)")(source),
        _ => Error::io(format!("starting {}", program.display()))(error),
    }
}

/// What happens in the child between fork and exec.
fn prepare(command: &mut Command, spec: &Spec) -> Result<(), Error> {
    let cwd = CString::new(spec.cwd.as_os_str().as_bytes());
    let cwd = cwd.map_err(|e| Error::Cwd { path: spec.cwd.clone(), source: e.into() })?;
    let umask = spec.umask;
    let rlimits = spec.rlimits;
    let open_files = files::at_start();
    let identity = spec.user.as_ref().map(resolve).transpose()?.flatten();
    let in_child = move || {
        // While we may still raise them.
        for (resource, limit) in [(libc::RLIMIT_NOFILE, rlimits.nofile), (libc::RLIMIT_CORE, rlimits.core)] {
            if let Some(most) = limit {
                let both = libc::rlimit { rlim_cur: most, rlim_max: most };
                // SAFETY: a plain system call with a pointer to a value that lives on this stack.
                check(Step::Limits, unsafe { libc::setrlimit(resource, &both) })?;
            }
        }
        if let (Some(soft), None) = (open_files, rlimits.nofile) {
            files::lower(soft)?;
        }
        if let Some((uid, gid, groups)) = &identity {
            // SAFETY: plain system calls; `groups` was allocated before the fork and is only read.
            unsafe {
                check(Step::Groups, libc::setgroups(groups.len(), groups.as_ptr()))?;
                check(Step::Group, libc::setgid(*gid))?;
                check(Step::User, libc::setuid(*uid))?;
            }
        }
        // SAFETY: plain system calls, async-signal-safe (signal-safety(7)); `cwd` ends with a zero byte.
        unsafe {
            check(Step::Cwd, libc::chdir(cwd.as_ptr()))?;
            if let Some(mask) = umask {
                libc::umask(mask);
            }
            reset_signals();
        }
        close_on_exec()
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock, no Rust state shared with
    // the parent's threads is touched.
    unsafe { command.pre_exec(in_child) };
    Ok(())
}

type Ids = (libc::uid_t, libc::gid_t, Vec<libc::gid_t>);

/// The ids to take on; `None` when they are ours already, which needs no privilege.
fn resolve(user: &Identity) -> Result<Option<Ids>, Error> {
    if rustix::process::geteuid().as_raw() == user.uid && user.uid != 0 {
        return Ok(None);
    }
    let failed = |source| Error::Identity { user: user.name.clone(), doing: "looking up its groups", source };
    let name = CString::new(user.name.as_bytes()).map_err(|e| failed(e.into()))?;
    let groups = nix::unistd::getgrouplist(&name, user.gid.into()).map_err(|e| failed(e.into()))?;
    Ok(Some((user.uid, user.gid, groups.into_iter().map(|gid| gid.as_raw()).collect())))
}

/// Handlers go with exec, but what we ignore or block would stay so in the worker.
///
/// # Safety
/// Only between fork and exec: it changes the whole process.
unsafe fn reset_signals() {
    // SAFETY: zeroed is a valid `sigset_t`/`sigaction` (SIG_DFL, no flags); each call gets valid pointers.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            // Fails for SIGKILL, SIGSTOP and those of the C library, which need no reset.
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Marks everything beyond stdin, stdout and stderr to be closed by exec.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: a plain system call. It marks and does not close: the standard library still needs
    // its pipe to report a failed exec.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 {
        return Ok(());
    }
    // Kernels before 5.11 cannot mark a range.
    let limit = 4096;
    for fd in 3..limit {
        // SAFETY: plain system calls on numbers; for one that is not open they fail without effect.
        unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFD);
            if flags >= 0 {
                check(Step::Files, libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC))?;
            }
        }
    }
    Ok(())
}
