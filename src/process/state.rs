//! The file that says what a proxy knows of its workers, for the next one on the same boot.
//!
//! It lies in the runtime directory, belongs to us and nobody else may read it. What is anything else
//! is not read: a link, somebody else's file, one that others could have changed.

use nix::libc;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of a file that is read at all.
pub(crate) const LARGEST: u64 = 64 * 1024 * 1024;

/// Names the machine's present boot; empty where the kernel does not say.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Time of the clock that all processes of one boot share, and that `Instant` shows (CLOCK_MONOTONIC).
pub(crate) fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a plain system call with a pointer to a value that lives on this stack.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Reads the file; `None` when there is none.
///
/// # Errors
/// Says why it is not to be trusted.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err("it is a symbolic link".to_owned()),
        Err(e) => return Err(format!("it cannot be opened: {e}")),
    };
    let meta = file.metadata().map_err(|e| format!("it cannot be looked at: {e}"))?;
    let own = rustix::process::geteuid().as_raw();
    if !meta.is_file() {
        return Err("it is no file".to_owned());
    }
    if meta.uid() != own {
        return Err(format!("it belongs to user {}, not to us ({own})", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 || meta.nlink() != 1 {
        return Err(format!("others can reach it (mode {:o}, {} links)", meta.mode() & 0o7777, meta.nlink()));
    }
    if meta.len() > LARGEST {
        return Err(format!("it has {} bytes, at most {LARGEST} are read", meta.len()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| format!("it cannot be read: {e}"))?;
    Ok(Some(bytes))
}

/// Takes the file's place at once, so that a reader sees the old one or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path, "new");
    remove(&beside)?;
    let mut options = OpenOptions::new();
    // The sticky bit on a file keeps systemd-tmpfiles away.
    options.write(true).create_new(true).mode(0o1600).custom_flags(libc::O_NOFOLLOW);
    let written = options.open(&beside).and_then(|mut file| file.write_all(bytes));
    let done = written.and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // Half a file is of no use to anybody.
        drop(remove(&beside));
    }
    done
}

/// Keeps a file that is of no use, for people; returns where.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let bad = beside(path, "bad");
    fs::rename(path, &bad).map(|()| bad)
}

/// The same path with one more ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The leader of the process group that was started for this worker socket, if it lives: of a start that
/// nobody could write down any more.
pub(crate) fn find_worker(socket: &Path, uid: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let leads = || {
            let pid = i32::try_from(*pid).map(nix::unistd::Pid::from_raw);
            pid.is_ok_and(|pid| nix::unistd::getpgid(Some(pid)) == Ok(pid))
        };
        serves(*pid, socket) && super::usage::real_user(*pid).is_ok_and(|user| user == uid) && leads()
    })
}

/// Whether a process was started for this worker socket, or by such a one.
pub(super) fn serves(pid: u32, socket: &Path) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = socket.as_os_str().as_encoded_bytes();
    environment.split(|b| *b == 0).any(|entry| entry.strip_prefix(b"PINGORA_UNIX_PROXY_SOCKET=") == Some(wanted))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_was_written_is_read() {
        let temp = Temp::new();
        let path = temp.0.join("state.json");
        assert_eq!(read(&path), Ok(None));
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path), Ok(Some(b"two".to_vec())));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&temp.0).unwrap().count(), 1);
        assert_eq!(set_aside(&path).unwrap(), temp.0.join("state.json.bad"));
        assert_eq!(read(&path), Ok(None));
    }

    #[test]
    fn a_link_is_neither_read_nor_written_through() {
        let temp = Temp::new();
        let (path, other) = (temp.0.join("state.json"), temp.0.join("other"));
        fs::write(&other, "theirs").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        symlink(&other, &path).unwrap();
        assert_eq!(read(&path), Err("it is a symbolic link".to_owned()));
        symlink(&other, beside(&path, "new")).unwrap();
        write(&path, b"ours").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "theirs");
        assert_eq!(read(&path), Ok(Some(b"ours".to_vec())));
        // A second name is as good as a link.
        fs::hard_link(&path, temp.0.join("second")).unwrap();
        assert!(read(&path).unwrap_err().contains("2 links"));
    }

    #[test]
    fn what_is_not_ours_alone_is_not_read() {
        let temp = Temp::new();
        let path = temp.0.join("state.json");
        write(&path, b"{}").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read(&path).unwrap_err().contains("others can reach it (mode 640"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(read(&path), Err("it is no file".to_owned()));
        fs::remove_dir(&path).unwrap();
        let large = fs::File::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        large.set_len(LARGEST + 1).unwrap();
        assert!(read(&path).unwrap_err().contains("at most"));
        if rustix::process::geteuid().is_root() {
            write(&path, b"{}").unwrap();
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert_eq!(read(&path), Err("it belongs to user 65534, not to us (0)".to_owned()));
        }
    }

    #[test]
    fn a_fifo_does_not_block() {
        let temp = Temp::new();
        let path = temp.0.join("state.json");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(read(&path), Err("it is no file".to_owned()));
    }

    #[test]
    fn the_clock_goes_on() {
        let (before, now) = (monotonic(), monotonic());
        assert!(now >= before && now > Duration::ZERO);
        assert_eq!(boot_id().len(), 36);
    }
}
