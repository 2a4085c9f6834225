//! Who holds the directory: a lock file, locked by flock, that names the holder.

use super::tree::{check_own, check_owner, make_with_parents, remove_upwards};
use super::{Error, RuntimeDir};
use crate::process::guard;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The word in the lock file of a guard that cleans up.
const GUARD: &str = "guard";
const PROXY: &str = "proxy";
/// For such a guard to end; it rarely needs more than the `stop_timeout` of a worker.
const CLEANING: Duration = Duration::from_secs(60);
/// For who has just taken the lock to write its own number there.
const NAMING: Duration = Duration::from_secs(2);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

impl RuntimeDir {
    /// Takes the directory, which is made if need be. Everything that is in there stays as it is until
    /// [`RuntimeDir::prepare`]. Blocks as [`await_guard`](RuntimeDir::await_guard) does.
    pub(crate) fn lock(path: &Path) -> Result<RuntimeDir, Error> {
        let begun = Instant::now();
        loop {
            let held = RuntimeDir::try_hold(path);
            // A dead one is named for a moment only, or for ever: its holder may live in another PID namespace.
            let limit = match held {
                Err(Error::InUse { .. }) if has_guard(path) => CLEANING,
                Err(Error::InUse { .. }) if names_a_dead(path) => NAMING,
                _ => return held,
            };
            if begun.elapsed() >= limit {
                return held;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Blocks while a guard cleans up after a proxy that was killed, a minute at most: the directory is free then.
    pub(crate) fn await_guard(path: &Path) {
        let until = Instant::now() + CLEANING;
        if has_guard(path) {
            log::info!("waiting for the guard of a killed proxy, which cleans up {}", path.display());
        }
        while has_guard(path) && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
    }

    fn try_hold(path: &Path) -> Result<RuntimeDir, Error> {
        let made = make_with_parents(path)?;
        check_own(path)?;
        let locked = lock(path, true);
        if locked.is_err() {
            remove_upwards(path, made);
        }
        let (file, remembered) = locked?;
        let created = if made > 0 { made } else { remembered };
        let dir = RuntimeDir::locked(path, file, created);
        dir.write_pid()?;
        Ok(dir)
    }

    /// For a guard: the directory of a proxy that is gone, if it is still there. What it left is ours to remove.
    ///
    /// # Errors
    /// Another holds it, or it is not fit to be used.
    pub(crate) fn reclaim(path: &Path) -> Result<Option<RuntimeDir>, Error> {
        if RuntimeDir::holder(path).is_none() {
            return Ok(None);
        }
        check_own(path)?;
        match lock(path, false) {
            Ok((file, created)) => {
                let dir = RuntimeDir::locked(path, file, created);
                dir.write_holder(GUARD)?;
                Ok(Some(dir))
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// That another proxy holds it, if one does. Nothing is made or changed.
    pub(crate) fn in_use(path: &Path) -> Option<Error> {
        lock(path, false).err().filter(|error| matches!(error, Error::InUse { .. }))
    }

    /// Whose process id stands in the lock file; `None` when there is no such file.
    pub(crate) fn holder(path: &Path) -> Option<Option<u32>> {
        match words(&path.join("lock")) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            words => Some(words.ok().and_then(|words| words.first()?.parse().ok())),
        }
    }

    /// Whether a proxy, or the guard of one, lives there now. Nothing is changed, and nobody is disturbed who begins to.
    pub(crate) fn is_inhabited(path: &Path) -> bool {
        let names_a_living = RuntimeDir::holder(path).flatten().is_some_and(guard::is_alive);
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let opened = || OpenOptions::new().read(true).custom_flags(flags).open(path.join("lock"));
        // A number may be another process's by now.
        let is_held =
            |file: File| flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK);
        names_a_living && opened().is_ok_and(is_held)
    }

    /// The process id that a file holds.
    pub(in crate::process) fn number_in(path: &Path) -> Option<u32> {
        words(path).ok()?.first()?.parse().ok()
    }

    /// The directory of the proxy that we take over from, by its own lock, which both then hold. Nothing in it
    /// is touched.
    ///
    /// # Errors
    /// The descriptor is not that of the directory's lock, or another holds that.
    pub(crate) fn inherit(path: &Path, lock: OwnedFd) -> Result<RuntimeDir, Error> {
        check_own(path)?;
        let name = path.join("lock");
        let doing = || format!("taking over the lock {}", name.display());
        let mut file = File::from(lock);
        let ours = file.metadata().map_err(Error::io(doing()))?;
        let there = fs::symlink_metadata(&name).map_err(Error::io(doing()))?;
        if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
            return Err(Error::Unsafe { path: path.into(), what: "the lock handed over is not its lock".into() });
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::InUse { path: path.into(), pid: None }),
            Err(e) => return Err(Error::Io { doing: doing(), source: e.into() }),
            Ok(()) => {}
        }
        let mut text = String::new();
        let read = file.rewind().and_then(|()| (&mut file).take(64).read_to_string(&mut text));
        read.map_err(Error::io(doing()))?;
        let created = text.split_whitespace().nth(1).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
        let depth = path.ancestors().count();
        Ok(RuntimeDir::locked(path, file, created.min(depth)))
    }

    /// The lock, for a successor: whoever has it holds the directory.
    pub(crate) fn lock_fd(&self) -> io::Result<OwnedFd> {
        let file = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        file.try_clone().map(OwnedFd::from)
    }

    /// Writes our process id into the lock file: again after the process has become a daemon.
    pub(crate) fn write_pid(&self) -> Result<(), Error> {
        self.write_holder(PROXY)
    }

    /// The lock file names no holder any more; the lock itself is still held.
    pub(super) fn clear_holder(&self) {
        let file = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        // Without it a socket may be left behind, which the next start removes.
        let _ = file.set_len(0);
    }

    fn write_holder(&self, what: &str) -> Result<(), Error> {
        let mut file = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        let created = self.created.load(Ordering::Acquire);
        let text = format!("{} {created} {what} {}\n", std::process::id(), self.instance);
        let write = |file: &mut File| -> io::Result<()> {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(text.as_bytes())
        };
        write(&mut file).map_err(Error::io(format!("writing {}", self.path.join("lock").display())))
    }
}

/// Takes the lock, which may be made; returns it with the number of directories that a dead proxy had made.
pub(super) fn lock(dir: &Path, make: bool) -> Result<(File, usize), Error> {
    let path = dir.join("lock");
    let doing = || format!("locking {}", path.display());
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(make).truncate(false).mode(0o1600);
        options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
        let opened = options.open(&path);
        if matches!(&opened, Err(e) if e.kind() == io::ErrorKind::PermissionDenied) {
            check_owner(&path)?;
        }
        let mut file = opened.map_err(Error::io(doing()))?;
        // To read a pipe is to wait.
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(Error::Unsafe { path, what: "is not a file; remove it".into() });
        }
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut text = String::new();
        // A torn or foreign text only costs the message its number.
        let _ = (&mut file).take(64).read_to_string(&mut text);
        let mut numbers = text.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (pid, created) = (numbers.next().flatten(), numbers.next().flatten());
        match taken {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::InUse { path: dir.into(), pid }),
            Err(e) => return Err(Error::Io { doing: doing(), source: e.into() }),
            Ok(()) => {}
        }
        // Its last holder may have removed it between our open and our lock.
        let ours = file.metadata().map_err(Error::io(doing()))?;
        if fs::symlink_metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            let depth = dir.ancestors().count();
            return Ok((file, created.map_or(0, |n| n as usize).min(depth)));
        }
    }
}

/// Whether a guard cleans up that lives, by the word of the lock file.
fn has_guard(path: &Path) -> bool {
    let Ok(words) = words(&path.join("lock")) else { return false };
    let alive = |pid: &String| pid.parse().is_ok_and(guard::is_alive);
    words.get(2).is_some_and(|what| what == GUARD) && words.first().is_some_and(alive)
}

/// Whether the lock file names a process that is gone. Who holds the lock has not written its own number yet.
fn names_a_dead(path: &Path) -> bool {
    let pid = words(&path.join("lock")).ok().and_then(|words| words.first()?.parse().ok());
    pid.is_some_and(|pid| !guard::is_alive(pid))
}

/// Which instance the lock file names, see [`RuntimeDir::instance`].
pub(super) fn instance(lock: &File) -> Option<String> {
    let mut text = [0; 64];
    let read = lock.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..read)?).ok()?;
    let named = text.split_whitespace().nth(3).filter(|word| word.len() == 16);
    named.filter(|word| word.bytes().all(|byte| byte.is_ascii_hexdigit())).map(str::to_owned)
}

/// Of a small file; does not wait.
fn words(path: &Path) -> io::Result<Vec<String>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = String::new();
    file.take(64).read_to_string(&mut text)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}
