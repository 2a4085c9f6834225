//! What workers leave behind: processes that have left their worker's process group, so that no signal reached them.

use super::RuntimeDir;
use super::lineage::is_of_instance;
use super::runtime_dir::dial;
use super::usage::real_user;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From SIGTERM to SIGKILL.
const TERM_TIMEOUT: Duration = Duration::from_secs(1);
/// From SIGKILL to the end.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Held by their pidfds, so that no stranger with such a number is signalled.
type Found = BTreeMap<u32, OwnedFd>;

/// Ends every process that this proxy has started for a worker, or that such a one has started, and whoever listens on a
/// worker's socket in its directory. To be asked when no worker is to live any more. Says how many there were. Blocks, for
/// [`TERM_TIMEOUT`] and [`KILL_TIMEOUT`] at most.
pub(crate) fn end(dir: &RuntimeDir) -> usize {
    // Another proxy may have taken the place of a directory that was removed.
    let sockets = if dir.is_ours() { sockets(dir.path()) } else { Vec::new() };
    end_all(|| marked(dir.path(), dir.instance()).into_iter().chain(listening(&sockets)).collect())
}

/// Ends whoever still listens on the sockets of a worker that is gone. The same otherwise.
pub(crate) fn end_listeners(sockets: &[PathBuf]) -> usize {
    end_all(|| listening(sockets))
}

fn end_all(find: impl Fn() -> Found) -> usize {
    let mut left = find();
    let found = left.len();
    if found == 0 {
        return 0;
    }
    for (signal, limit) in [(Signal::TERM, TERM_TIMEOUT), (Signal::KILL, KILL_TIMEOUT)] {
        // Those that were started meanwhile, too.
        left.extend(find());
        left.retain(|_, process| lives(process));
        for (pid, process) in &left {
            log::warn!("process {pid}, which a worker has left behind, gets {}", name(signal));
            // It may have ended.
            let _ = pidfd_send_signal(process, signal);
        }
        let until = Instant::now() + limit;
        while left.values().any(lives) && Instant::now() < until {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    found
}

fn name(signal: Signal) -> &'static str {
    if signal == Signal::KILL { "SIGKILL" } else { "SIGTERM" }
}

fn marked(dir: &Path, instance: &str) -> Found {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let marked = pids.filter(|pid| *pid != own && *pid > 1 && is_of_instance(*pid, dir, instance));
    // Only once it is held is it known who has the number.
    marked
        .filter_map(|pid| Some((pid, hold_process(pid)?)))
        .filter(|(pid, _)| is_of_instance(*pid, dir, instance))
        .collect()
}

fn listening(sockets: &[PathBuf]) -> Found {
    sockets.iter().filter_map(|path| listener(path)).filter_map(|pid| Some((pid, hold_process(pid)?))).collect()
}

fn hold_process(pid: u32) -> Option<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok().filter(lives)
}

/// The workers' sockets, or what stands in their places.
fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let workers: Vec<PathBuf> = entries(&dir.join("workers")).collect();
    let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let (dirs, mut found): (Vec<_>, Vec<_>) = workers.into_iter().partition(|path| is_dir(path));
    found.extend(dirs.iter().flat_map(|dir| entries(dir)));
    found
}

/// Who listens on a worker's socket, if that is a process of the user whose sockets have their place there: nobody else is ended
/// for a socket that he has put there.
fn listener(path: &Path) -> Option<u32> {
    fs::symlink_metadata(path).ok().filter(|meta| meta.file_type().is_socket())?;
    let owner = fs::symlink_metadata(path.parent()?).ok()?.uid();
    // One that is too busy to be asked lets nobody wait.
    let peer = getsockopt(&dial(path).ok()?, PeerCredentials).ok()?;
    let pid = u32::try_from(peer.pid()).ok().filter(|pid| *pid > 1 && *pid != std::process::id())?;
    (peer.uid() == owner && real_user(pid).is_ok_and(|user| user == owner)).then_some(pid)
}

fn lives(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::process::{Child, Command};

    fn start(script: &str, environment: &[(&str, &Path)]) -> Child {
        let mut command = Command::new("setsid");
        command.args(["-w", "sh", "-c", script]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(environment.iter().copied()).spawn().unwrap()
    }

    #[test]
    fn only_processes_of_this_directorys_workers_are_ended() {
        let temp = Temp::new();
        let dir = RuntimeDir::open(&temp.0.join("run"), Vec::new()).unwrap();
        let of = |dir: &Path| dir.join("workers/chat.0.1.sock");
        let (mine, other) = (of(dir.path()), of(Path::new("/run/other")));
        let variable = "PINGORA_UNIX_PROXY_SOCKET";
        let instance = ("PINGORA_UNIX_PROXY_INSTANCE", Path::new(dir.instance()));
        let mut gentle = start("exec sleep 60", &[(variable, &mine), instance]);
        // Of a version that named no instance.
        let mut older = start("exec sleep 60", &[(variable, &mine)]);
        let mut stubborn = start(
            "trap '' TERM; touch \"$READY\"; while :; do sleep 1; done",
            &[(variable, &mine), instance, ("READY", &temp.0.join("ready"))],
        );
        // The same path, where it leads to another proxy's directory.
        let elsewhere = ("PINGORA_UNIX_PROXY_INSTANCE", Path::new("0123456789abcdef"));
        let strangers = [
            start("exec sleep 60", &[(variable, &other), instance]),
            start("exec sleep 60", &[(variable, &mine), elsewhere]),
        ];
        while !temp.0.join("ready").exists() {
            std::thread::sleep(POLL_INTERVAL);
        }
        // Each with the program that has made its session.
        assert!(end(&dir) >= 3);
        for ended in [&mut gentle, &mut older, &mut stubborn] {
            // `setsid -w` forwards how its child ended, unless it was ended first.
            assert!(!ended.wait().unwrap().success());
        }
        for mut stranger in strangers {
            assert_eq!(stranger.try_wait().unwrap(), None);
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
        assert_eq!(end(&dir), 0);
    }
}
