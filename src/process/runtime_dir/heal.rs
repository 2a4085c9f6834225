//! What keeps the directory whole while its proxy lives: it is locked against aging, and what others have removed from it
//! is made again.
//!
//! systemd-tmpfiles(8) passes over a directory, with all that is in it, while somebody holds a BSD lock (flock(2)) on it: it
//! tries to take an exclusive one, and a shared one is enough to keep it away. Where a line of its configuration names our
//! directory itself it looks at what is in there one by one; hence the locks on the directories within, and the sticky bit on
//! files, which it honours, too. Sockets on which somebody listens it leaves alone anyway.
//!
//! Nothing keeps `rm -r` or logind from removing it, which does so with /run/user/UID when a user has logged out.

use super::lock::lock;
use super::tree::{check_own, chmod, is_dir, lock_shared, make_with_parents};
use super::{Error, PID_FILE, RuntimeDir};
use crate::process::PRELOAD;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

impl RuntimeDir {
    /// Makes again what is missing; tells what that was. Sockets are for those who serve them. Costs a few system calls when
    /// nothing is.
    ///
    /// # Errors
    /// It cannot be made, or another proxy has taken the place: see also [`RuntimeDir::trouble`].
    pub(crate) fn heal(&self) -> Result<Vec<String>, Error> {
        if self.is_released.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        let healed = self.make_again();
        *self.trouble.lock().unwrap_or_else(|e| e.into_inner()) = healed.as_ref().err().map(Error::to_string);
        healed
    }

    /// Why the directory is not whole, if the last look has found it so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn make_again(&self) -> Result<Vec<String>, Error> {
        let mut made = Vec::new();
        if is_missing(&self.path) {
            let count = make_with_parents(&self.path)?;
            self.created.fetch_max(count, Ordering::AcqRel);
            made.push("the directory itself".to_owned());
        }
        // Before anything in it: somebody may have put a link there.
        check_own(&self.path)?;
        if self.lock_again()? {
            made.push("lock".to_owned());
        }
        let rooms = self.rooms();
        let missing: Vec<&PathBuf> = rooms.iter().filter(|room| !is_dir(room)).collect();
        if !made.is_empty() || !missing.is_empty() {
            chmod(&self.path, self.open_mode())?;
            self.make_rooms()?;
            let name = |room: &&PathBuf| room.strip_prefix(&self.path).unwrap_or(room).display().to_string();
            made.extend(missing.iter().map(name));
        }
        self.keep_from_aging();
        if self.has_script.load(Ordering::Acquire) && is_missing(&self.path.join("preload.cjs")) {
            self.write_preload(PRELOAD)?;
            made.push("preload.cjs".to_owned());
        }
        self.write_pid_file_again(&mut made)?;
        Ok(made)
    }

    /// Whether the lock that we hold is the directory's: else that is another proxy's.
    pub(in crate::process) fn is_ours(&self) -> bool {
        let held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        is_at(&held, &self.path.join("lock"))
    }

    /// Takes the lock anew where its file is gone, or is not ours any more. Tells whether it was.
    fn lock_again(&self) -> Result<bool, Error> {
        let mut held = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        if is_at(&held, &self.path.join("lock")) {
            return Ok(false);
        }
        *held = lock(&self.path, true)?.0;
        drop(held);
        self.write_pid()?;
        Ok(true)
    }

    /// A daemon's, once it was there.
    fn write_pid_file_again(&self, made: &mut Vec<String>) -> Result<(), Error> {
        let path = self.path.join(PID_FILE);
        if !is_missing(&path) {
            self.has_pid_file.store(true, Ordering::Release);
        } else if self.has_pid_file.load(Ordering::Acquire) {
            let written = fs::write(&path, format!("{}\n", std::process::id()));
            written.map_err(Error::io(format!("writing {}", path.display())))?;
            made.push(PID_FILE.to_owned());
        }
        Ok(())
    }

    /// The directories within.
    fn rooms(&self) -> Vec<PathBuf> {
        let workers = self.path.join("workers");
        let own = self
            .app_users()
            .iter()
            .filter(|app_user| app_user.user.is_some())
            .map(|app_user| workers.join(&app_user.app))
            .collect();
        [own, vec![workers, self.path.join("logs")]].concat()
    }

    /// Locks every directory that is not locked yet. One that cannot be is only not kept from aging.
    pub(super) fn keep_from_aging(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(|e| e.into_inner());
        let wanted: Vec<PathBuf> = self.rooms().into_iter().chain([self.path.clone()]).collect();
        shared.retain(|path, _| wanted.contains(path));
        for path in wanted {
            if !shared.get(&path).is_some_and(|held| is_at(held, &path))
                && let Some(file) = lock_shared(&path)
            {
                shared.insert(path, file);
            }
        }
    }
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Whether this is what stands at the path.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let there = fs::symlink_metadata(path).ok().map(number);
    there.is_some() && there == file.metadata().ok().map(number)
}

#[cfg(test)]
mod tests {
    use super::super::AppUser;
    use super::*;
    use crate::process::tests::Temp;
    use rustix::fs::{FlockOperation, flock};

    fn open(path: &Path) -> RuntimeDir {
        let dir = RuntimeDir::open(path, vec![AppUser { app: "chat".to_owned(), user: None }]).unwrap();
        dir.write_preload(PRELOAD).unwrap();
        dir
    }

    /// As systemd-tmpfiles asks.
    fn would_be_aged(path: &Path) -> bool {
        flock(File::open(path).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    #[test]
    fn it_is_locked_against_aging_as_long_as_it_is_used() {
        let temp = Temp::new();
        let path = temp.0.join("run");
        let dir = open(&path);
        let directories = ["", "workers", "logs"].map(|name| path.join(name));
        assert!(directories.iter().all(|path| !would_be_aged(path)));
        let mode = |name| fs::metadata(path.join(name)).unwrap().mode();
        assert_eq!([mode("lock") & 0o7777, mode("preload.cjs") & 0o7777], [0o1600, 0o1600]);
        dir.crash();
        assert!(would_be_aged(&temp.0));
    }

    #[test]
    fn what_is_missing_is_made_again() {
        let temp = Temp::new();
        let path = temp.0.join("deep").join("run");
        let dir = open(&path);
        assert_eq!(dir.heal().unwrap(), Vec::<String>::new());
        fs::write(path.join(PID_FILE), "1\n").unwrap();
        dir.heal().unwrap();
        fs::remove_dir_all(temp.0.join("deep")).unwrap();
        let made = dir.heal().unwrap();
        assert_eq!(made, ["the directory itself", "lock", "workers", "logs", "preload.cjs", PID_FILE]);
        assert_eq!(dir.heal().unwrap(), Vec::<String>::new());
        assert!(RuntimeDir::is_inhabited(&path) && !would_be_aged(&path) && !would_be_aged(&path.join("logs")));
        assert_eq!(RuntimeDir::holder(&path), Some(Some(std::process::id())));
        fs::remove_file(path.join("preload.cjs")).unwrap();
        fs::remove_dir(path.join("logs")).unwrap();
        assert_eq!(dir.heal().unwrap(), ["logs", "preload.cjs"]);
        // Also what it had not made at first is ours to remove.
        drop(dir);
        assert!(!temp.0.join("deep").exists());
    }

    #[test]
    fn one_that_another_has_taken_meanwhile_is_left_alone() {
        let temp = Temp::new();
        let path = temp.0.join("run");
        let dir = open(&path);
        fs::remove_dir_all(&path).unwrap();
        let other = open(&path);
        assert!(matches!(dir.heal(), Err(Error::InUse { .. })));
        assert!(dir.trouble().unwrap().contains("another proxy"));
        drop(other);
        assert!(dir.heal().unwrap().contains(&"lock".to_owned()));
        assert_eq!(dir.trouble(), None);
        fs::remove_dir_all(&path).unwrap();
        std::os::unix::fs::symlink("/", &path).unwrap();
        assert!(dir.heal().is_err());
        fs::remove_file(&path).unwrap();
    }
}
