//! The private directory of one proxy process.
//!
//! ```text
//! lock                    held with flock while the proxy lives; holds "PID CREATED", of a guard "PID CREATED guard"
//! control.sock            workers dial in here
//! admin.sock              commands; bound by the server, 0600
//! state.json              what the proxy knows of its workers, for the next one; 0600
//! preload.cjs             what Node.js workers load first
//! workers/APP.SLOT.INC.sock       one per worker; a second server of it: APP.SLOT.INC-PORT.sock
//! workers/APP/APP.SLOT.INC.sock   the same when the app runs as another user, who owns workers/APP
//! logs/APP.SLOT.INC.out, .err     FIFOs behind the worker's stdout and stderr
//! ```

use super::output::Stream;
use super::spec::Identity;
use super::{Error, guard};
use crate::worker::{Incarnation, Slot, WorkerId};
use rustix::fs::{FlockOperation, flock};
use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a path that `sockaddr_un` holds beside its terminating zero (unix(7)).
pub(crate) const SOCKET_PATH_LIMIT: usize = 107;

/// Name of the socket in the directory on which commands are taken.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// Name of the socket on which a successor takes over.
pub(crate) const HANDOFF_SOCKET: &str = "handoff.sock";
/// Name of the file that says what the proxy knows of its workers.
const STATE: &str = "state.json";

/// Name of the file in the directory that a daemon writes its process id into.
pub(crate) const PID_FILE: &str = "pingora-unix-proxy.pid";

/// The word in the lock file of a guard that cleans up.
const GUARD: &str = "guard";
/// For such a guard to end; it rarely needs more than the `stop_timeout` of a worker.
const CLEANING: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);

/// An app that lives in the directory.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) app: String,
    /// Whose processes bind the sockets, when not our own.
    pub(crate) user: Option<Identity>,
}

/// The directory, locked. Dropping it removes what it made.
#[derive(Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
    lock: Mutex<File>,
    /// How many directories, from `path` upwards, are ours to remove.
    created: usize,
    tenants: Mutex<Vec<Tenant>>,
    /// Highest incarnation that left something in here, per app.
    seen: HashMap<String, u32>,
    /// Another proxy has it: nothing in it is ours to remove any more.
    ceded: AtomicBool,
}

impl RuntimeDir {
    /// Creates or takes over the directory and removes what dead workers left. Nothing is touched
    /// while another proxy holds it.
    #[cfg(test)]
    pub(crate) fn open(path: &Path, tenants: Vec<Tenant>) -> Result<RuntimeDir, Error> {
        for tenant in &tenants {
            check_names(path, tenant)?;
        }
        let mut dir = RuntimeDir::hold(path)?;
        dir.furnish(tenants, &[])?;
        Ok(dir)
    }

    /// The same, but everything that is in there stays as it is until [`RuntimeDir::furnish`].
    /// Blocks as [`await_guard`](RuntimeDir::await_guard) does.
    pub(crate) fn hold(path: &Path) -> Result<RuntimeDir, Error> {
        let until = Instant::now() + CLEANING;
        loop {
            let held = RuntimeDir::try_hold(path);
            let waits = matches!(held, Err(Error::InUse { .. })) && (has_guard(path) || names_a_dead(path));
            if !waits || Instant::now() >= until {
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

    /// Whose process id stands in the lock file; `None` when there is no such file.
    pub(crate) fn holder(path: &Path) -> Option<Option<u32>> {
        match words(&path.join("lock")) {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
            words => Some(words.ok().and_then(|words| words.first()?.parse().ok())),
        }
    }

    /// The process id that a file holds.
    pub(super) fn number_in(path: &Path) -> Option<u32> {
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

    fn locked(path: &Path, lock: File, created: usize) -> RuntimeDir {
        RuntimeDir {
            path: path.into(),
            lock: Mutex::new(lock),
            created,
            tenants: Mutex::default(),
            seen: HashMap::new(),
            ceded: AtomicBool::new(false),
        }
    }

    /// The lock, for a successor: whoever has it holds the directory.
    pub(crate) fn lock_fd(&self) -> io::Result<OwnedFd> {
        let file = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        file.try_clone().map(OwnedFd::from)
    }

    /// From now on it is another's: nothing is removed at our end.
    pub(crate) fn cede(&self) {
        self.ceded.store(true, Ordering::Release);
    }

    /// It is ours, and cleared at our end.
    pub(crate) fn own(&self) {
        self.ceded.store(false, Ordering::Release);
    }

    /// Whether all of these could live in a directory.
    ///
    /// # Errors
    /// A name that does not fit.
    pub(crate) fn check(path: &Path, tenants: &[Tenant]) -> Result<(), Error> {
        tenants.iter().try_for_each(|tenant| check_names(path, tenant))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Says who lives in it, where everything is there already.
    ///
    /// # Errors
    /// A name that does not fit.
    pub(crate) fn settle(&self, tenants: Vec<Tenant>) -> Result<(), Error> {
        for tenant in &tenants {
            check_names(&self.path, tenant)?;
        }
        *self.tenants() = tenants;
        Ok(())
    }

    /// Where the proxy writes down what it knows of its workers.
    pub(crate) fn state_file(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// Writes our process id into the lock file: again after the process has become a daemon.
    pub(crate) fn write_pid(&self) -> Result<(), Error> {
        self.write_holder("")
    }

    fn write_holder(&self, what: &str) -> Result<(), Error> {
        let mut file = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        let text = format!("{} {} {what}\n", std::process::id(), self.created);
        let write = |file: &mut File| -> io::Result<()> {
            file.rewind()?;
            file.set_len(0)?;
            file.write_all(text.as_bytes())
        };
        write(&mut file).map_err(Error::io(format!("writing {}", self.path.join("lock").display())))
    }

    /// First incarnation number that nothing in here uses yet.
    pub(crate) fn first_incarnation(&self, app: &str) -> Incarnation {
        Incarnation(self.seen.get(app).map_or(1, |n| n.saturating_add(1)))
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// Whether processes of other users must be able to reach the control socket.
    pub(crate) fn is_shared(&self) -> bool {
        self.tenants().iter().any(|tenant| tenant.user.is_some())
    }

    /// Writes the script that Node.js workers load first.
    pub(crate) fn write_preload(&self, text: &str) -> Result<PathBuf, Error> {
        let path = self.path.join("preload.cjs");
        let mode = if self.is_shared() { 0o644 } else { 0o600 };
        remove(&path)
            .and_then(|()| fs::write(&path, text))
            .map_err(Error::io(format!("writing {}", path.display())))?;
        chmod(&path, mode)?;
        Ok(path)
    }

    pub(crate) fn socket(&self, id: &WorkerId) -> PathBuf {
        self.socket_dir(&id.app).join(format!("{}.sock", stem(id)))
    }

    /// The FIFO behind one of the worker's output streams.
    pub(crate) fn log_pipe(&self, id: &WorkerId, stream: Stream) -> PathBuf {
        self.path.join("logs").join(format!("{}.{}", stem(id), stream.short()))
    }

    /// Removes every socket and FIFO of a worker that is gone.
    pub(crate) fn remove_worker(&self, id: &WorkerId) -> Result<(), Error> {
        let stem = stem(id);
        // The app may have changed its user since.
        let workers = self.path.join("workers");
        let own = Some(workers.join(&*id.app)).filter(|dir| dir.is_dir());
        for dir in [Some(workers), own, Some(self.path.join("logs"))].into_iter().flatten() {
            let ours = |name: &str| name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(['.', '-']));
            for path in entries(&dir)?.into_iter().filter(|p| file_name(p).is_some_and(ours)) {
                remove(&path).map_err(Error::io(format!("removing {}", path.display())))?;
            }
        }
        Ok(())
    }

    /// Ends as a killed process does: nothing is removed, but the lock is free.
    #[cfg(test)]
    pub(super) fn crash(self) {
        let file = self.lock.lock().map(|file| file.try_clone());
        let _ = file.map(|file| file.map(|file| flock(&file, FlockOperation::Unlock)));
        self.cede();
    }

    fn socket_dir(&self, app: &str) -> PathBuf {
        let own = self.tenants().iter().any(|tenant| tenant.app == app && tenant.user.is_some());
        let workers = self.path.join("workers");
        if own { workers.join(app) } else { workers }
    }

    /// Takes in an app that was not there at the start, or that changes its user.
    pub(crate) fn admit(&self, tenant: Tenant) -> Result<(), Error> {
        check_names(&self.path, &tenant)?;
        if tenant.user.is_some() && !self.is_shared() {
            for (path, mode) in [
                (self.path.clone(), 0o711),
                (self.path.join("workers"), 0o711),
                (self.path.join("logs"), 0o711),
                (self.path.join("preload.cjs"), 0o644),
                (self.control_socket(), 0o666),
            ] {
                chmod(&path, mode)?;
            }
        }
        self.make_room(&tenant)?;
        let mut tenants = self.tenants();
        tenants.retain(|known| known.app != tenant.app);
        tenants.push(tenant);
        Ok(())
    }

    fn tenants(&self) -> std::sync::MutexGuard<'_, Vec<Tenant>> {
        self.tenants.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The directory that the sockets of another user's processes need.
    fn make_room(&self, tenant: &Tenant) -> Result<(), Error> {
        let Some(user) = &tenant.user else { return Ok(()) };
        let path = self.path.join("workers").join(&tenant.app);
        make(&path, 0o700)?;
        std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).map_err(|source| Error::Identity {
            user: user.name.clone(),
            doing: "giving it a directory",
            source,
        })
    }

    /// Makes the rooms and removes what dead workers left in them, but nothing of those to `keep`.
    pub(crate) fn furnish(&mut self, tenants: Vec<Tenant>, keep: &[WorkerId]) -> Result<(), Error> {
        self.settle(tenants)?;
        let keep: HashSet<String> = keep.iter().map(stem).collect();
        let open = if self.is_shared() { 0o711 } else { 0o700 };
        chmod(&self.path, open)?;
        for (name, mode) in [("workers", open), ("logs", open)] {
            make(&self.path.join(name), mode)?;
        }
        for tenant in self.tenants().clone() {
            self.make_room(&tenant)?;
        }
        for name in ["control.sock", ADMIN_SOCKET] {
            remove(&self.path.join(name)).map_err(Error::io(format!("removing the old {name}")))?;
        }
        let mut dirs = vec![self.path.join("workers"), self.path.join("logs")];
        dirs.extend(entries(&dirs[0])?.into_iter().filter(|path| path.is_dir()));
        for path in dirs.iter().map(|dir| entries(dir)).collect::<Result<Vec<_>, _>>()?.concat() {
            if !file_name(&path).and_then(stem_of).is_some_and(|stem| keep.contains(stem)) {
                self.inspect_left(&path)?;
            }
        }
        for path in entries(&self.path)?.iter().filter(|path| is_half_bound(path)) {
            remove(path).map_err(Error::io(format!("removing {}", path.display())))?;
        }
        Ok(())
    }

    /// Removes the socket or FIFO of a dead worker; remembers the number of a living one.
    fn inspect_left(&mut self, path: &Path) -> Result<(), Error> {
        if !is_in_use(path) {
            let known = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket() || m.file_type().is_fifo());
            return if known {
                remove(path).map_err(Error::io(format!("removing {}", path.display())))
            } else {
                Ok(())
            };
        }
        if let Some((app, incarnation)) = file_name(path).and_then(parse_stem) {
            log::warn!("{} is still in use by a worker of an earlier proxy", path.display());
            let highest = self.seen.entry(app.to_owned()).or_default();
            *highest = incarnation.max(*highest);
        }
        Ok(())
    }

    /// Removes everything that is not in use, and the directories that were not there before.
    pub(crate) fn clear(&self) {
        if self.ceded.load(Ordering::Acquire) {
            return;
        }
        let mut dirs = vec![self.path.join("workers"), self.path.join("logs")];
        dirs.extend(entries(&dirs[0]).unwrap_or_default().into_iter().filter(|path| path.is_dir()));
        for dir in dirs.iter().rev() {
            let left = entries(dir).unwrap_or_default();
            left.iter().filter(|p| !p.is_dir() && !is_in_use(p)).for_each(|p| ignore(remove(p)));
            ignore(fs::remove_dir(dir));
        }
        entries(&self.path).unwrap_or_default().iter().filter(|p| is_half_bound(p)).for_each(|p| ignore(remove(p)));
        let state = ["", ".new", ".bad"].map(|ending| format!("{STATE}{ending}"));
        for name in ["control.sock", HANDOFF_SOCKET, ADMIN_SOCKET, "preload.cjs", PID_FILE]
            .into_iter()
            .chain(state.iter().map(String::as_str))
        {
            ignore(remove(&self.path.join(name)));
        }
        // Where Pingora puts the one of a daemon that was killed.
        ignore(remove(&self.path.join(format!("{PID_FILE}.old"))));
        // Last: from here on another proxy may take the directory.
        ignore(remove(&self.path.join("lock")));
        remove_upwards(&self.path, self.created);
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.clear();
    }
}

fn ignore(_: io::Result<()>) {}

fn stem(id: &WorkerId) -> String {
    format!("{}.{}.{}", id.app, id.slot, id.incarnation)
}

/// A control socket that did not get as far as its name.
fn is_half_bound(path: &Path) -> bool {
    file_name(path).is_some_and(|name| name.starts_with("control.") && name.ends_with(".new"))
}

/// `APP.SLOT.INC` of a name that begins so.
fn stem_of(name: &str) -> Option<&str> {
    let second = name.match_indices('.').nth(1)?.0;
    let rest = name.get(second + 1..)?;
    let number = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    name.get(..second + 1 + number)
}

/// `APP.SLOT.INC` and whatever follows.
fn parse_stem(name: &str) -> Option<(&str, u32)> {
    let mut parts = name.split('.');
    let (app, _slot, incarnation) = (parts.next()?, parts.next()?.parse::<u16>().ok()?, parts.next()?);
    Some((app, incarnation.split('-').next()?.parse().ok()?))
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn check_names(path: &Path, tenant: &Tenant) -> Result<(), Error> {
    let name = &tenant.app;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err(Error::AppName { name: name.clone() });
    }
    let longest = longest_socket(path, name, tenant.user.is_some());
    let length = longest.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(Error::PathTooLong { path: longest, length, limit: SOCKET_PATH_LIMIT });
    }
    Ok(())
}

/// The longest path that a socket of this app can get: high numbers, and a second server's port.
pub(crate) fn longest_socket(dir: &Path, app: &str, own_user: bool) -> PathBuf {
    let id = WorkerId { app: app.into(), slot: Slot(9999), incarnation: Incarnation(9_999_999) };
    let dir = dir.join("workers");
    let dir = if own_user { dir.join(app) } else { dir };
    dir.join(format!("{}-65535.sock", stem(&id)))
}

/// Returns how many directories it made, counted from `path` upwards.
fn make_with_parents(path: &Path) -> Result<usize, Error> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_err()).collect();
    for (at, dir) in missing.iter().enumerate().rev() {
        let mode = if at == 0 { 0o700 } else { 0o755 };
        let made = DirBuilder::new().mode(mode).create(dir);
        // Another proxy may be a moment ahead of us; the lock decides.
        if let Err(source) = made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) }) {
            remove_upwards(missing.get(at + 1).unwrap_or(dir), missing.len() - at - 1);
            return Err(Error::Io { doing: format!("making directory {}", dir.display()), source });
        }
    }
    Ok(missing.len())
}

/// Refuses what others could change.
fn check_own(path: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
    let own = rustix::process::geteuid().as_raw();
    let what = if !meta.is_dir() {
        "is not a directory; remove it or set another runtime_dir".to_owned()
    } else if meta.uid() != own {
        format!("belongs to user {}, not to us ({own}); remove it or set another runtime_dir", meta.uid())
    } else if meta.mode() & 0o022 != 0 {
        format!("can be written by others (mode {:o}); chmod go-w it or set another runtime_dir", meta.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::Unsafe { path: path.into(), what })
}

/// Takes the lock, which may be made; returns it with the number of directories that a dead proxy had made.
fn lock(dir: &Path, make: bool) -> Result<(File, usize), Error> {
    let path = dir.join("lock");
    let doing = || format!("locking {}", path.display());
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(make).truncate(false).mode(0o600);
        options.custom_flags(nix::libc::O_NOFOLLOW);
        let mut file = options.open(&path).map_err(Error::io(doing()))?;
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

/// Of a small file; does not wait.
fn words(path: &Path) -> io::Result<Vec<String>> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = String::new();
    file.take(64).read_to_string(&mut text)?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn remove_upwards(path: &Path, levels: usize) {
    for dir in path.ancestors().take(levels) {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
}

fn make(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Io { doing: format!("making directory {}", path.display()), source: e })
        }
        _ => chmod(path, mode),
    }
}

fn chmod(path: &Path, mode: u32) -> Result<(), Error> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(Error::io(format!("setting the mode of {}", path.display())))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = fs::read_dir(dir).and_then(|list| list.map(|entry| entry.map(|e| e.path())).collect());
    list.map_err(Error::io(format!("listing {}", dir.display())))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether anybody listens, without waiting for a place in the queue of one that is busy.
fn answers(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return true };
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    matches!(connect(&socket, &address), Ok(()) | Err(rustix::io::Errno::AGAIN))
}

/// Whether a process listens on this socket or holds this FIFO open.
pub(super) fn is_in_use(path: &Path) -> bool {
    match fs::symlink_metadata(path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_socket() => answers(path),
        // Without a reader, opening for writing fails; a worker holds both ends.
        Ok(kind) if kind.is_fifo() => {
            OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).is_ok()
        }
        _ => false,
    }
}
