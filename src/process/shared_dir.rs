//! The directory that an app's external workers share with the proxy: another container's, another user's.
//!
//! ```text
//! control.sock            external workers dial in here; 0666, since credentials decide
//! preload.cjs             what they load first; 0644
//! worker.ID.sock          bound by a worker; a second server of it: worker.ID-PORT.sock
//! ```
//!
//! Unlike the runtime directory it may be written by others. One that the proxy makes has the sticky bit and a list of who may
//! write there; of any other, its maker decides.

use super::runtime_dir::{answers, connects, lock_shared, make_with_parents, remove_upwards};
use super::{Error, access_list};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// The longest name in the directory: a second server's socket, of a second address.
pub(crate) const LONGEST_SHARED: &str = "/worker.0123456789ab-65535-99.sock";
const CONTROL: &str = "control.sock";
const SCRIPT: &str = "preload.cjs";
/// Between `bind` and `listen` a socket refuses as a dead one does.
const YOUNG: Duration = Duration::from_secs(5);
/// Most files that a sweep looks at.
const LOOKED_AT: usize = 4096;

/// Dropping it removes what it put there, but for the script in a directory that stays.
#[derive(Debug)]
pub(crate) struct SharedDir {
    path: PathBuf,
    /// How many directories we made, counted from `path` upwards.
    made: usize,
    /// Each file of ours, held: another proxy may have put its own in the place, and while ours is held
    /// the numbers of no other are the same.
    ours: Mutex<Vec<(PathBuf, OwnedFd)>>,
    /// Keeps it from aging.
    _locked: Option<fs::File>,
}

impl SharedDir {
    /// Sees that the directory is fit for use, or makes it. `users` may dial in.
    ///
    /// # Errors
    /// It is a link, no directory, or belongs to somebody who has no business there.
    pub(crate) fn open(path: &Path, users: &[u32]) -> Result<SharedDir, Error> {
        let own = rustix::process::geteuid().as_raw();
        let made = make_with_parents(path)?;
        if made > 0 {
            admit(path, users)?;
        }
        let meta = fs::symlink_metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
        let unfit = |what: String| Err(Error::Unsafe { path: path.into(), what });
        if meta.is_symlink() {
            return unfit("is a symbolic link, which others could turn; write the directory that it leads to".into());
        }
        if !meta.is_dir() {
            return unfit("is not a directory; remove it or set another external.directory".into());
        }
        let owner = meta.uid();
        if owner != 0 && owner != own && !users.contains(&owner) {
            return unfit(format!(
                "belongs to user {owner}, who could replace what is in it; add {owner} to external.users, or change its owner"
            ));
        }
        let dir = SharedDir { path: path.into(), made, ours: Mutex::default(), _locked: lock_shared(path) };
        if made == 0 {
            dir.admit_users(users)?;
        }
        if meta.mode() & 0o002 != 0 {
            let path = path.display();
            log::warn!(
                "anybody who reaches {path} may write there, and could run code as its workers; leave it to the proxy to make it"
            );
        }
        Ok(dir)
    }

    /// Lets these users write there from now on, and no others; where the proxy has not made the directory that is up to
    /// whoever has.
    ///
    /// # Errors
    /// Its rights cannot be set.
    pub(crate) fn admit_users(&self, users: &[u32]) -> Result<(), Error> {
        let is_ours = open_directory(&self.path).is_ok_and(|dir| {
            let meta = dir.metadata();
            let own = rustix::process::geteuid().as_raw();
            access_list::exists(&dir) && meta.is_ok_and(|meta| meta.uid() == own && meta.mode() & 0o1007 == 0o1000)
        });
        if is_ours { admit(&self.path, users) } else { Ok(()) }
    }

    /// Writes the script, then opens the socket: whoever finds the one finds the other. With
    /// `take_over`, in the place of a proxy that still lives.
    ///
    /// # Errors
    /// Another proxy serves the directory, or it cannot be written.
    pub(crate) fn prepare(&self, script: &str, take_over: bool) -> Result<UnixListener, Error> {
        let control = self.path.join(CONTROL);
        if !take_over && answers(&control) {
            return Err(Error::InUse { path: self.path.clone(), pid: None });
        }
        self.write(SCRIPT, script)?;
        let temporary = self.temporary(CONTROL);
        let failed = || Error::io(format!("binding {}", control.display()));
        ignore(fs::remove_file(&temporary));
        let listener = UnixListener::bind(&temporary).map_err(failed())?;
        let placed = listener.set_nonblocking(true).and_then(|()| self.place(&temporary, CONTROL, Some(0o1666)));
        placed.map_err(failed())?;
        Ok(listener)
    }

    /// Whether what we have put there, or what has taken its place, is still there.
    pub(crate) fn is_whole(&self) -> bool {
        let ours = self.ours.lock().unwrap_or_else(|e| e.into_inner());
        let is_gone = |path: &Path| fs::symlink_metadata(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        !ours.iter().any(|(path, _)| is_gone(path))
    }

    /// Where a worker's socket of this name stands; `None` if it is no such name. A worker may know the
    /// directory by another path: only the name counts.
    pub(crate) fn socket(directory: &Path, path: &str) -> Option<PathBuf> {
        let name = path.rsplit('/').next()?;
        let id = name.strip_prefix("worker.")?.strip_suffix(".sock")?;
        let (id, rest) = id.split_at_checked(12)?;
        let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let good = id.bytes().all(fits) && rest.bytes().all(|b| b == b'-' || b.is_ascii_digit()) && rest.len() <= 12;
        good.then(|| directory.join(name))
    }

    /// Removes the sockets of dead workers, where we may. Blocks.
    pub(crate) fn sweep(&self) {
        let Ok(list) = fs::read_dir(&self.path) else { return };
        for entry in list.flatten().take(LOOKED_AT) {
            let path = entry.path();
            let named = path.to_str().and_then(|path| SharedDir::socket(&self.path, path)).is_some();
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let old = meta.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > YOUNG);
            if named && old && meta.file_type().is_socket() && is_dead(&path) {
                // In a directory with the sticky bit only its owner may.
                ignore(fs::remove_file(&path));
            }
        }
    }

    /// Never through a link, and never half a file.
    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let temporary = self.temporary(name);
        ignore(fs::remove_file(&temporary));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o1644).custom_flags(nix::libc::O_NOFOLLOW);
        let written = options.open(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            // The sticky bit on a file keeps systemd-tmpfiles away.
            file.set_permissions(Permissions::from_mode(0o1644))
        });
        let placed = written.and_then(|()| self.place(&temporary, name, None));
        placed.map_err(Error::io(format!("writing {}", self.path.join(name).display())))
    }

    /// `mode`: of a socket.
    fn place(&self, temporary: &Path, name: &str, mode: Option<u32>) -> io::Result<()> {
        let path = self.path.join(name);
        let held = rustix::fs::open(temporary, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let held = held.map_err(io::Error::from).and_then(|held| {
            mode.map_or(Ok(()), |mode| open_up(&held, mode))?;
            Ok(held)
        });
        let placed = held.and_then(|held| fs::rename(temporary, &path).map(|()| held));
        let held = placed.inspect_err(|_| ignore(fs::remove_file(temporary)))?;
        let mut ours = self.ours.lock().unwrap_or_else(|e| e.into_inner());
        ours.push((path, held));
        Ok(())
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.{}", std::process::id()))
    }
}

impl SharedDir {
    /// What is ours and still there.
    fn take_ours(&self) -> Vec<PathBuf> {
        let ours = std::mem::take(&mut *self.ours.lock().unwrap_or_else(|e| e.into_inner()));
        let is_there = |(path, held): &(PathBuf, OwnedFd)| {
            let both = rustix::fs::fstat(held).ok().zip(rustix::fs::lstat(path).ok());
            both.is_some_and(|(held, there)| (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino))
        };
        ours.into_iter().filter(is_there).map(|(path, _)| path).collect()
    }

    /// Removes the directory that we have made, if there is nothing in it but our script. Under another name: nobody may
    /// find it without the script, and put one there.
    fn remove(&self) {
        let aside = self.path.with_extension(format!("{}.old", std::process::id()));
        let is_free = |dir: &Path| {
            let mut names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
            names.all(|name| name == SCRIPT)
        };
        if !is_free(&self.path) || fs::rename(&self.path, &aside).is_err() {
            return;
        }
        if is_free(&aside) {
            ignore(fs::remove_file(aside.join(SCRIPT)));
            ignore(fs::remove_dir(&aside));
            self.path.parent().into_iter().for_each(|parent| remove_upwards(parent, self.made - 1));
        } else {
            ignore(fs::rename(&aside, &self.path));
        }
    }
}

impl Drop for SharedDir {
    /// The script stays as long as the directory does: in its place another user could put his own for the workers that
    /// are started next.
    fn drop(&mut self) {
        let ours = self.take_ours();
        ours.iter().filter(|path| !path.ends_with(SCRIPT)).for_each(|path| ignore(fs::remove_file(path)));
        if self.made > 0 && ours.iter().any(|path| path.ends_with(SCRIPT)) {
            self.remove();
        }
    }
}

/// Lets users write in a directory of ours, each only what is his.
fn admit(path: &Path, users: &[u32]) -> Result<(), Error> {
    let own = rustix::process::geteuid().as_raw();
    let others: Vec<u32> = users.iter().copied().filter(|user| *user != own).collect();
    if others.is_empty() {
        return Ok(());
    }
    let failed = || Error::io(format!("letting users {others:?} write in {}", path.display()));
    let dir = open_directory(path).map_err(failed())?;
    let mode = dir.metadata().map_err(failed())?.mode();
    if mode & 0o1007 != 0o1000 {
        // First: afterwards the group's bits belong to the list.
        dir.set_permissions(Permissions::from_mode(0o1700)).map_err(failed())?;
    }
    match (access_list::grant(&dir, &others), &others[..]) {
        (Ok(()), _) => Ok(()),
        // A file system without lists.
        (Err(rustix::io::Errno::NOTSUP), [user]) if own == 0 => {
            std::os::unix::fs::fchown(&dir, Some(*user), None).map_err(failed())
        }
        (Err(rustix::io::Errno::NOTSUP), _) => Err(Error::Unsafe {
            path: path.into(),
            what: "cannot be made for other users, as its file system has no access lists; make it yourself".into(),
        }),
        (Err(e), _) => Err(failed()(e.into())),
    }
}

/// Not through a link that somebody has put there since.
fn open_directory(path: &Path) -> io::Result<fs::File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Sets the mode of a socket of ours by what is held, not by a name under which another may have put something else.
fn open_up(held: &OwnedFd, mode: u32) -> io::Result<()> {
    let there = rustix::fs::fstat(held)?;
    let is_socket = rustix::fs::FileType::from_raw_mode(there.st_mode) == rustix::fs::FileType::Socket;
    if !is_socket || there.st_uid != rustix::process::geteuid().as_raw() || there.st_nlink != 1 {
        return Err(io::Error::other("another has put something in its place"));
    }
    fs::set_permissions(format!("/proc/self/fd/{}", held.as_raw_fd()), Permissions::from_mode(mode))
}

fn is_dead(path: &Path) -> bool {
    // Not by a connect that waits: whoever may write there could let us wait for ever.
    connects(path) == Err(rustix::io::Errno::CONNREFUSED)
}

fn ignore(_: io::Result<()>) {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("shared-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn it_is_furnished_and_cleared() {
        let base = temp("clear");
        let path = base.join("chat");
        let dir = SharedDir::open(&path, &[own()]).unwrap();
        let listener = dir.prepare("script", false).unwrap();
        assert_eq!(fs::read_to_string(path.join(SCRIPT)).unwrap(), "script");
        assert_eq!(fs::metadata(path.join(CONTROL)).unwrap().mode() & 0o777, 0o666);
        let second = SharedDir::open(&path, &[own()]).unwrap();
        assert!(matches!(second.prepare("x", false), Err(Error::InUse { .. })));
        // A successor's files stay when its predecessor goes.
        let newer = second.prepare("newer", true).unwrap();
        drop((dir, listener));
        assert_eq!(fs::read_to_string(path.join(SCRIPT)).unwrap(), "newer");
        assert!(UnixStream::connect(path.join(CONTROL)).is_ok());
        drop((second, newer));
        // Whoever finds the directory finds the script.
        assert_eq!(fs::metadata(path.join(SCRIPT)).unwrap().mode() & 0o7777, 0o1644);
        let left = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), [SCRIPT]);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn it_is_made_with_its_parents_which_go_with_it() {
        let base = temp("parents");
        let path = base.join("shared").join("chat");
        let dir = SharedDir::open(&path, &[own(), own() + 1]).unwrap();
        drop(dir.prepare("script", false).unwrap());
        // Nobody but those users: the group's bits are what the list gives at most.
        let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
        assert!(mode == 0o1770 || mode == 0o1700, "{mode:o}");
        // While something of a worker is there, all of it stays.
        fs::write(path.join("worker.0123456789ab.sock"), "").unwrap();
        drop(dir);
        assert!(path.join(SCRIPT).exists());
        fs::remove_file(path.join("worker.0123456789ab.sock")).unwrap();
        fs::remove_dir_all(base.join("shared")).unwrap();
        let dir = SharedDir::open(&path, &[own(), own() + 1]).unwrap();
        drop(dir.prepare("script", false).unwrap());
        drop(dir);
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn files_of_others_stay_whatever_their_numbers() {
        let base = temp("numbers");
        let dirs = [(); 3].map(|()| SharedDir::open(&base, &[own()]).unwrap());
        let [first, second, third] = dirs;
        drop(first.prepare("first", false).unwrap());
        // A successor that gives up, and whoever comes after it: numbers that became free are used again.
        drop(second.prepare("second", true).unwrap());
        drop(second);
        let listener = third.prepare("third", true).unwrap();
        drop(first);
        assert_eq!(fs::read_to_string(base.join(SCRIPT)).unwrap(), "third");
        assert!(UnixStream::connect(base.join(CONTROL)).is_ok());
        drop((third, listener));
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_is_missing_is_seen_and_nothing_ages_meanwhile() {
        use rustix::fs::{FlockOperation, flock};
        let base = temp("whole");
        let dir = SharedDir::open(&base, &[own()]).unwrap();
        let _listener = dir.prepare("script", false).unwrap();
        assert!(dir.is_whole());
        let aging = flock(fs::File::open(&base).unwrap(), FlockOperation::NonBlockingLockExclusive);
        assert_eq!(aging, Err(rustix::io::Errno::WOULDBLOCK));
        fs::remove_file(base.join(CONTROL)).unwrap();
        assert!(!dir.is_whole());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn links_and_strangers_are_refused() {
        let base = temp("unfit");
        std::os::unix::fs::symlink(&base, base.join("link")).unwrap();
        let refused = SharedDir::open(&base.join("link"), &[]).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        fs::write(base.join("file"), "").unwrap();
        assert!(SharedDir::open(&base.join("file"), &[]).is_err());
        // A link in the place of a file of ours is replaced, and what it leads to is left alone.
        fs::write(base.join("precious"), "kept").unwrap();
        std::os::unix::fs::symlink(base.join("precious"), base.join(SCRIPT)).unwrap();
        let dir = SharedDir::open(&base, &[own()]).unwrap();
        dir.prepare("script", false).unwrap();
        assert_eq!(fs::read_to_string(base.join("precious")).unwrap(), "kept");
        assert!(!fs::symlink_metadata(base.join(SCRIPT)).unwrap().is_symlink());
        drop(dir);
        fs::remove_dir_all(base).unwrap();
    }

    /// Listens, and lets nobody in any more.
    fn clog(path: &Path) -> UnixListener {
        let listener = UnixListener::bind(path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // Whoever has hung up waits to be accepted all the same.
        while connects(path).is_ok() {}
        listener
    }

    #[test]
    fn nobody_lets_us_wait() {
        let base = temp("clogged");
        let (control, worker) = (base.join(CONTROL), base.join("worker.0123456789ab.sock"));
        let _clogged = [clog(&control), clog(&worker)];
        let old = std::time::SystemTime::now() - 2 * YOUNG;
        let times = rustix::fs::Timespec {
            tv_sec: old.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let times = rustix::fs::Timestamps { last_access: times, last_modification: times };
        rustix::fs::utimensat(rustix::fs::CWD, &worker, &times, rustix::fs::AtFlags::empty()).unwrap();
        let (told, answer) = std::sync::mpsc::channel();
        let path = base.clone();
        std::thread::spawn(move || {
            let dir = SharedDir::open(&path, &[own()]).unwrap();
            let refused = dir.prepare("script", false);
            dir.sweep();
            told.send(matches!(refused, Err(Error::InUse { .. }))).unwrap();
        });
        assert_eq!(answer.recv_timeout(Duration::from_secs(10)), Ok(true));
        assert!(worker.exists(), "it is busy, not dead");
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn no_other_file_s_mode_is_changed() {
        let base = temp("mode");
        let precious = base.join("precious");
        fs::write(&precious, "").unwrap();
        fs::set_permissions(&precious, Permissions::from_mode(0o600)).unwrap();
        let dir = SharedDir::open(&base, &[own()]).unwrap();
        // What somebody may put in the place of a socket between two of our steps.
        std::os::unix::fs::symlink(&precious, base.join("link")).unwrap();
        let _listener = UnixListener::bind(base.join("socket")).unwrap();
        fs::hard_link(base.join("socket"), base.join("second")).unwrap();
        for name in ["link", "precious", "second"] {
            assert!(dir.place(&base.join(name), CONTROL, Some(0o666)).is_err(), "{name}");
        }
        assert!(!precious.exists() || fs::metadata(&precious).unwrap().mode() & 0o777 == 0o600);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn only_workers_names_are_sockets() {
        let dir = Path::new("/run/chat");
        let at = |name: &str| Some(dir.join(name));
        assert_eq!(SharedDir::socket(dir, "/elsewhere/worker.0123456789ab.sock"), at("worker.0123456789ab.sock"));
        assert_eq!(SharedDir::socket(dir, "worker.0123456789ab-80.sock"), at("worker.0123456789ab-80.sock"));
        for bad in ["control.sock", "worker.0123456789ab.sock/", "worker.0123456789AB.sock", "worker.01.sock", "..", ""]
        {
            assert_eq!(SharedDir::socket(dir, bad), None, "{bad}");
        }
        assert!(SharedDir::socket(dir, &LONGEST_SHARED[1..]).is_some());
    }
}
