//! Whether a process belongs to a worker: it is one, has been started by one, or stands in a group of one.
//!
//! The kernel knows parents, groups and sessions (proc_pid_stat(5)). One that has left all of them still has the
//! environment that it was started with, unless it threw that away, too: it was the user's own then, and not an app that
//! somebody leads. So this tells workers from operators, and is no wall against a user's own programs.

use super::guard::is_alive;
use super::usage::stat_fields;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What tells a worker's processes in their environment: the path of its socket.
const MARK: &[u8] = b"PINGORA_UNIX_PROXY_SOCKET=";
/// Which proxy has started them.
const INSTANCE_MARK: &[u8] = b"PINGORA_UNIX_PROXY_INSTANCE=";
/// Generations of parents that are looked at.
const MOST_PARENTS: usize = 64;

/// Says, for people, why a process is a worker's; `None` when it is not. `leaders` are the workers that are known, `dir` is the
/// runtime directory. Reads a few files of /proc.
///
/// # Errors
/// It has ended, so nobody can tell.
pub(crate) fn worker_of(pid: u32, leaders: &[u32], dir: &Path) -> io::Result<Option<String>> {
    let mut at = pid;
    for _ in 0..MOST_PARENTS {
        if leaders.contains(&at) {
            return Ok(Some(if at == pid { "it is a worker".into() } else { format!("worker {at} has started it") }));
        }
        let family = match family(at) {
            // One of another user, whom we may not see (hidepid): we could not have started a worker as him.
            Err(_) if at == pid && is_alive(pid) => return Ok(None),
            Err(e) if at == pid => return Err(e),
            // It has ended in between: whoever it left has another parent by now.
            Err(_) => return Ok(None),
            Ok(family) => family,
        };
        if let Some(leader) = [family.group, family.session].into_iter().find(|id| leaders.contains(id)) {
            return Ok(Some(format!("it is of the process group of worker {leader}")));
        }
        if is_marked(at, dir) {
            return Ok(Some("its environment is that of a worker".into()));
        }
        if family.parent <= 1 || family.parent == std::process::id() {
            return Ok(None);
        }
        at = family.parent;
    }
    Ok(None)
}

/// Whether a process was started for a worker whose socket is in this runtime directory, or by such a one.
fn is_marked(pid: u32, dir: &Path) -> bool {
    names(&environment(pid), dir)
}

/// The same, and by this very proxy: for another process the same path may lead to another directory, and a directory that was
/// removed may be another proxy's by now.
pub(super) fn is_of_instance(pid: u32, dir: &Path, instance: &str) -> bool {
    let environment = environment(pid);
    let named = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(INSTANCE_MARK));
    let is_ours = match named {
        Some(named) => named == instance.as_bytes(),
        // A version before this one has started it.
        None => ["mnt", "pid"].iter().all(|kind| namespace(pid, kind) == namespace(std::process::id(), kind)),
    };
    is_ours && names(&environment, dir)
}

fn namespace(pid: u32, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn environment(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn names(environment: &[u8], dir: &Path) -> bool {
    let workers = dir.join("workers");
    let workers = workers.as_os_str().as_bytes();
    let mut marks = environment.split(|byte| *byte == 0).filter_map(|entry| entry.strip_prefix(MARK));
    marks.any(|path| path.strip_prefix(workers).is_some_and(|rest| rest.starts_with(b"/")))
}

struct Family {
    parent: u32,
    group: u32,
    session: u32,
}

fn family(pid: u32) -> io::Result<Family> {
    let [parent, group, session] = stat_fields(pid, [4, 5, 6])?;
    Ok(Family { parent, group, session })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn sleeper(change: impl Fn(&mut Command) -> &mut Command) -> Ended {
        let mut command = Command::new("sleep");
        command.arg("60").env_clear();
        change(&mut command);
        Ended(command.spawn().unwrap())
    }

    #[test]
    fn a_process_of_a_worker_is_known() {
        let dir = Path::new("/run/x");
        let told = |pid, leaders: &[u32]| worker_of(pid, leaders, dir).unwrap();
        let leader = sleeper(|command| command.process_group(0));
        let pid = leader.0.id();
        assert_eq!(told(pid, &[]), None);
        assert_eq!(told(pid, &[pid]).unwrap(), "it is a worker");
        let member = sleeper(|command| command.process_group(pid.cast_signed()));
        assert!(told(member.0.id(), &[pid]).unwrap().contains(&format!("group of worker {pid}")));
        assert_eq!(told(member.0.id(), &[]), None);
        // What descends from us ends at us, whoever our own parents are.
        let parent = family(std::process::id()).unwrap().parent;
        assert_eq!(told(pid, &[parent]), None);
        assert!(worker_of(std::process::id(), &[parent], dir).unwrap().unwrap().contains("has started it"));
        assert!(worker_of(u32::MAX, &[], dir).is_err());
    }

    #[test]
    fn the_environment_tells_of_this_directory_only() {
        let marked = |value: &str| sleeper(|command| command.env("PINGORA_UNIX_PROXY_SOCKET", value));
        for (value, is) in [
            ("/run/x/workers/chat.0.1.sock", true),
            ("/run/x/workers/chat/chat.0.1.sock", true),
            ("/run/x2/workers/chat.0.1.sock", false),
            ("/run/x/workersx/chat.0.1.sock", false),
            ("/run/y/workers/chat.0.1.sock", false),
        ] {
            let process = marked(value);
            assert_eq!(worker_of(process.0.id(), &[], Path::new("/run/x")).unwrap().is_some(), is, "{value}");
        }
    }
}
