//! The private directory of one proxy process.
//!
//! ```text
//! (itself, and the directories in it: locked against aging and made again when they are removed, see `heal`)
//! lock                    held with flock while the proxy lives; holds "PID CREATED", of a guard "PID CREATED guard"
//! control.sock            workers dial in here
//! admin.sock              commands; bound by the server, 0600
//! state.json              what the proxy knows of its workers, for the next one; 0600
//! preload.cjs             what Node.js workers load first
//! workers/APP.SLOT.INC.sock       one per worker; a second server of it: APP.SLOT.INC-PORT.sock
//! workers/APP/APP.SLOT.INC.sock   the same when the app runs as another user, who owns workers/APP
//! logs/APP.SLOT.INC.out, .err     FIFOs behind the worker's stdout and stderr
//! ```

#![forbid(unsafe_code)]

mod heal;
mod lock;
mod names;
mod renewal;
mod tree;

pub(crate) use renewal::Renewal;
pub(crate) use tree::answers;
pub(super) use tree::{connects, dial, is_in_use};

use super::Error;
use super::output::Stream;
use super::spec::Identity;
use crate::worker::{Incarnation, WorkerId};
use names::{check_names, file_name, is_half_bound, parse_stem, stem, stem_of};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tree::{chmod, entries, is_dir, make, remove};
pub(super) use tree::{lock_shared, make_with_parents, remove_upwards};

/// Name of the socket in the directory on which commands are taken.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";
/// Name of the socket on which a successor takes over.
pub(crate) const HANDOFF_SOCKET: &str = "handoff.sock";
/// Name of the file that says what the proxy knows of its workers.
const STATE: &str = "state.json";

/// Name of the file in the directory that a daemon writes its process id into.
pub(crate) const PID_FILE: &str = "pingora-unix-proxy.pid";

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
    /// Names what this proxy and its successors have started: the same path may lead elsewhere for another process.
    instance: String,
    /// How many directories, from `path` upwards, are ours to remove.
    created: AtomicUsize,
    /// Its directories, locked against aging: see [`heal`].
    shared: Mutex<BTreeMap<PathBuf, File>>,
    /// What is in it once it was written, and so belongs there.
    has_script: AtomicBool,
    has_pid_file: AtomicBool,
    /// Why something that is missing cannot be made again.
    trouble: Mutex<Option<String>>,
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

    fn locked(path: &Path, lock: File, created: usize) -> RuntimeDir {
        let instance = lock::instance(&lock).unwrap_or_else(|| format!("{:016x}", fastrand::u64(..)));
        RuntimeDir {
            path: path.into(),
            lock: Mutex::new(lock),
            instance,
            created: AtomicUsize::new(created),
            shared: Mutex::default(),
            has_script: AtomicBool::new(false),
            has_pid_file: AtomicBool::new(false),
            trouble: Mutex::default(),
            tenants: Mutex::default(),
            seen: HashMap::new(),
            ceded: AtomicBool::new(false),
        }
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

    /// What the environment of its workers names, and no other proxy's.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
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
        // The sticky bit on a file keeps systemd-tmpfiles away.
        let mode = if self.is_shared() { 0o1644 } else { 0o1600 };
        remove(&path)
            .and_then(|()| fs::write(&path, text))
            .map_err(Error::io(format!("writing {}", path.display())))?;
        chmod(&path, mode)?;
        self.has_script.store(true, Ordering::Release);
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
        self.left_by(id)?
            .iter()
            .try_for_each(|path| remove(path).map_err(Error::io(format!("removing {}", path.display()))))
    }

    /// The sockets and FIFOs of a worker.
    pub(crate) fn left_by(&self, id: &WorkerId) -> Result<Vec<PathBuf>, Error> {
        let stem = stem(id);
        // The app may have changed its user since.
        let workers = self.path.join("workers");
        let own = Some(workers.join(&*id.app)).filter(|dir| dir.is_dir());
        let ours = |name: &str| name.strip_prefix(&stem).is_some_and(|rest| rest.starts_with(['.', '-']));
        let mut left = Vec::new();
        for dir in [Some(workers), own, Some(self.path.join("logs"))].into_iter().flatten() {
            // One that was removed holds nothing.
            let found = if is_dir(&dir) { entries(&dir)? } else { Vec::new() };
            left.extend(found.into_iter().filter(|path| file_name(path).is_some_and(ours)));
        }
        Ok(left)
    }

    /// Ends as a killed process does: nothing is removed, but the lock is free.
    #[cfg(test)]
    pub(super) fn crash(self) {
        let file = self.lock.lock().map(|file| file.try_clone());
        let _ = file.map(|file| file.map(|file| rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock)));
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
                (self.path.join("preload.cjs"), 0o1644),
                (self.control_socket(), 0o1666),
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

    /// Of directories through which workers must come.
    fn open_mode(&self) -> u32 {
        if self.is_shared() { 0o711 } else { 0o700 }
    }

    fn make_rooms(&self) -> Result<(), Error> {
        for name in ["workers", "logs"] {
            make(&self.path.join(name), self.open_mode())?;
        }
        self.tenants().clone().iter().try_for_each(|tenant| self.make_room(tenant))
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
        chmod(&self.path, self.open_mode())?;
        self.make_rooms()?;
        self.keep_from_aging();
        for name in ["control.sock", ADMIN_SOCKET] {
            remove(&self.path.join(name)).map_err(Error::io(format!("removing the old {name}")))?;
        }
        let mut dirs = vec![self.path.join("workers"), self.path.join("logs")];
        dirs.extend(entries(&dirs[0])?.into_iter().filter(|path| is_dir(path)));
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
        // Removed while we ran, it may be another's by now.
        if self.ceded.load(Ordering::Acquire) || (is_dir(&self.path) && !self.is_ours()) {
            return;
        }
        // Nobody binds a socket here again from now on, see `Renewal`.
        self.disown();
        let mut dirs = vec![self.path.join("workers"), self.path.join("logs")];
        dirs.retain(|path| is_dir(path));
        let within = dirs.first().map(|dir| entries(dir).unwrap_or_default()).unwrap_or_default();
        dirs.extend(within.into_iter().filter(|path| is_dir(path)));
        for dir in dirs.iter().rev() {
            let left = entries(dir).unwrap_or_default();
            left.iter().filter(|p| !is_dir(p) && !is_in_use(p)).for_each(|p| ignore(remove(p)));
            let is_of_app = dir.parent().is_some_and(|parent| parent != self.path);
            if is_of_app && !left.iter().any(|path| is_in_use(path)) {
                // What the app has made there for itself. No link is followed.
                left.iter().filter(|path| is_dir(path)).for_each(|path| ignore(fs::remove_dir_all(path)));
            }
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
        remove_upwards(&self.path, self.created.load(Ordering::Acquire));
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.clear();
    }
}

fn ignore(_: io::Result<()>) {}
