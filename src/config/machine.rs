//! What a configuration is checked against: the environment, files, programs and users of this machine, or,
//! on paper, of an imagined one.

use crate::process::RuntimeDir;
use crate::process::env_file;
use crate::process::spec::Identity;
use crate::tls::Fault;
use crate::tls::certificates::Certificate;
use crate::tls::client_certificates::{ClientCertificates, ClientPolicy};
use crate::tls::rules::{CertificateFiles, provider};
use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access, getegid, geteuid, getgrouplist};
use rustix::fs::getxattr;
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file that may be read, and maybe run.
    File {
        executable: bool,
    },
    /// A directory that may be entered.
    Directory,
    /// Something else: a device, a socket, a FIFO.
    Other,
    Missing,
    /// It is there, but not for us; or the path is no path. In words.
    Closed(String),
}

/// The longest default in a home, in bytes: of a socket's 107 this leaves 16 for the name of an app.
const MOST_OF_STATE: usize = 54;

/// What keeps a user from a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Barrier {
    pub(super) at: PathBuf,
    /// There is an access control list, which may open what the permission bits close.
    pub(super) has_list: bool,
}

pub(super) trait Machine {
    fn var(&self, name: &str) -> Option<OsString>;
    fn is_root(&self) -> bool;
    /// Effective user and group.
    fn own(&self) -> (u32, u32);
    /// Processors that this process may use, from 1.
    fn cpus(&self) -> u16;
    /// What stands at an absolute path; `wanted` is what the caller hopes for.
    fn look(&self, path: &Path, wanted: Seen) -> Seen;
    /// The first bytes of a regular file; `None` where that cannot be read, or is only imagined.
    fn read(&self, path: &Path, most: usize) -> Option<Vec<u8>>;
    /// By name, or by number. `Ok(None)` when there is none.
    fn user(&self, name: &str) -> Result<Option<Identity>, String>;
    fn group(&self, name: &str) -> Result<Option<u32>, String>;

    /// The first part of an absolute path that a user may not enter or, at its end, read.
    fn barrier(&self, path: &Path, user: &Identity) -> Option<Barrier>;

    /// Whether a file of variables can be read; else where and why not, in words.
    fn variables(&self, path: &Path) -> Result<(), String>;

    /// A certificate and its key, checked; `None` where files are only imagined.
    fn certificate(&self, _files: &CertificateFiles) -> Option<Result<Certificate, Fault>> {
        None
    }

    /// What is asked of clients, checked.
    fn client_certificates(&self, _wanted: &ClientCertificates) -> Option<Result<ClientPolicy, Fault>> {
        None
    }

    /// Where lies what outlives the proxy when nothing is said; `None` for a user without a home.
    fn state_dir(&self) -> Option<PathBuf> {
        const NAME: &str = "pingora-unix-proxy";
        let absolute = |name| self.var(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        // Of a unit of systemd with StateDirectory=.
        if let Some(dir) = absolute("STATE_DIRECTORY") {
            return Some(dir);
        }
        if self.is_root() {
            return Some(Path::new("/var/lib").join(NAME));
        }
        let home = || Some(absolute("HOME")?.join(".local/share"));
        Some(absolute("XDG_DATA_HOME").or_else(home)?.join(NAME))
    }

    /// Directories in which programs are looked for.
    fn path(&self) -> Vec<PathBuf> {
        let path = self.var("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect()
    }

    /// Where the runtime directory is when nothing is said, the best place first: one that lives as long as the proxy. The
    /// others are where one that runs may be: an older version had them first, or something has changed since.
    fn runtime_dirs(&self) -> Vec<PathBuf> {
        const NAME: &str = "pingora-unix-proxy";
        if self.is_root() {
            return vec![Path::new("/run").join(NAME)];
        }
        let absolute = |name| self.var(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let own = self.own().0;
        // Of a unit of systemd with RuntimeDirectory=, which goes with the unit.
        let unit = absolute("RUNTIME_DIRECTORY");
        let unit = unit.map(|dir| if dir.ends_with(NAME) { dir } else { dir.join(NAME) });
        let session = absolute("XDG_RUNTIME_DIR");
        // logind removes it when the user has logged out, unless the user lingers.
        let goes = session.as_deref() == Some(Path::new(&format!("/run/user/{own}"))) && !self.lingers();
        let session = session.map(|dir| dir.join(NAME));
        let (lasting, passing) = if goes { (None, session) } else { (session, None) };
        let home = || Some(absolute("HOME")?.join(".local/state"));
        let state =
            absolute("XDG_STATE_HOME").or_else(home).filter(|dir| self.is_usable(dir)).map(|dir| dir.join(NAME));
        // Paths of sockets are short.
        let state = state.filter(|dir| dir.as_os_str().len() <= MOST_OF_STATE);
        let shared = PathBuf::from(format!("/tmp/{NAME}-{own}"));
        unit.into_iter().chain(lasting).chain(state).chain([shared]).chain(passing).collect()
    }

    /// Of the places of [`Machine::runtime_dirs`], the one where a proxy runs, else the best.
    fn runtime_dir(&self) -> PathBuf {
        let dirs = self.runtime_dirs();
        let inhabited = dirs.iter().find(|dir| self.is_inhabited(dir));
        inhabited.or(dirs.first()).cloned().unwrap_or_default()
    }

    /// Whether our user's processes may stay when the user has logged out, as `loginctl enable-linger` says.
    fn lingers(&self) -> bool;
    /// Whether a directory is ours, or could be made in one that is.
    fn is_usable(&self, dir: &Path) -> bool;
    /// Whether a proxy runs there.
    fn is_inhabited(&self, dir: &Path) -> bool;
}

/// This machine, as the running process sees it.
pub(super) struct Here;

impl Machine for Here {
    fn var(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn is_root(&self) -> bool {
        geteuid().is_root()
    }

    fn own(&self) -> (u32, u32) {
        (geteuid().as_raw(), getegid().as_raw())
    }

    fn cpus(&self) -> u16 {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cpus).unwrap_or(u16::MAX).min(1024)
    }

    fn lingers(&self) -> bool {
        // Whoever may not see names lingers or not: the home will do.
        let name = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
        name.is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
    }

    fn is_usable(&self, dir: &Path) -> bool {
        let there = dir.ancestors().find_map(|dir| std::fs::metadata(dir).ok());
        there.is_some_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw())
    }

    fn is_inhabited(&self, dir: &Path) -> bool {
        RuntimeDir::is_inhabited(dir)
    }

    fn look(&self, path: &Path, _: Seen) -> Seen {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Seen::Missing,
            Err(error) => return Seen::Closed(reason(&error)),
        };
        let may = |flags| access(path, flags);
        if meta.is_dir() {
            return match may(AccessFlags::X_OK) {
                Ok(()) => Seen::Directory,
                Err(error) => Seen::Closed(error.desc().to_lowercase()),
            };
        }
        if !meta.is_file() {
            return Seen::Other;
        }
        let executable = may(AccessFlags::X_OK).is_ok();
        match may(AccessFlags::R_OK) {
            // A program may be runnable without being readable.
            Err(error) if !executable => Seen::Closed(error.desc().to_lowercase()),
            _ => Seen::File { executable },
        }
    }

    fn read(&self, path: &Path, most: usize) -> Option<Vec<u8>> {
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path).ok()?.take(most as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn user(&self, name: &str) -> Result<Option<Identity>, String> {
        let number = name.parse::<u32>().ok();
        let found = match number {
            Some(uid) => User::from_uid(Uid::from_raw(uid)),
            None => User::from_name(name),
        };
        let user = found.map_err(|error| error.desc().to_lowercase())?;
        Ok(user.map(|user| Identity {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            name: user.name,
            home: user.dir,
        }))
    }

    fn barrier(&self, path: &Path, user: &Identity) -> Option<Barrier> {
        if user.uid == 0 {
            return None;
        }
        let name = std::ffi::CString::new(user.name.as_str()).ok()?;
        let groups = getgrouplist(&name, Gid::from_raw(user.gid)).unwrap_or_default();
        // Links are followed: what counts is where the path really leads.
        let real = path.canonicalize().ok()?;
        let mut parts: Vec<&Path> = real.ancestors().collect();
        parts.reverse();
        let closed = |part: &&Path| std::fs::metadata(part).is_ok_and(|meta| !admits(&meta, user, &groups));
        let at = parts.into_iter().find(closed)?;
        Some(Barrier { at: at.to_owned(), has_list: has_access_list(at) })
    }

    fn variables(&self, path: &Path) -> Result<(), String> {
        env_file::read(path).map(drop)
    }

    fn certificate(&self, files: &CertificateFiles) -> Option<Result<Certificate, Fault>> {
        Some(Certificate::load(&files.cert, &files.key, &provider()))
    }

    fn client_certificates(&self, wanted: &ClientCertificates) -> Option<Result<ClientPolicy, Fault>> {
        Some(ClientPolicy::load(wanted, &provider()))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        if let Ok(gid) = name.parse::<u32>() {
            // The kernel takes any number; it need not have a name.
            return Ok(Some(Gid::from_raw(gid).as_raw()));
        }
        let group = Group::from_name(name).map_err(|error| error.desc().to_lowercase())?;
        Ok(group.map(|group| group.gid.as_raw()))
    }
}

/// Whether more than the permission bits decides (acl(5)).
fn has_access_list(path: &Path) -> bool {
    let mut list = [0_u8; 512];
    // A longer one is one, too.
    matches!(getxattr(path, "system.posix_acl_access", &mut list[..]), Ok(1..) | Err(Errno::RANGE))
}

/// Whether permission bits let a user read (files) or enter (directories).
fn admits(meta: &std::fs::Metadata, user: &Identity, groups: &[Gid]) -> bool {
    let wanted = if meta.is_dir() { 0o1 } else { 0o4 };
    let shift = if meta.uid() == user.uid {
        6
    } else if meta.gid() == user.gid || groups.contains(&Gid::from_raw(meta.gid())) {
        3
    } else {
        0
    };
    (meta.mode() >> shift) & wanted != 0
}

/// An error of the operating system without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// A machine on which everything is as the configuration hopes, for examples in documentation and for tests:
/// every file and program is there, the usual users exist, the proxy is root and the environment holds only
/// `HOME`.
pub(super) struct Paper {
    pub(super) root: bool,
}

impl Machine for Paper {
    fn var(&self, name: &str) -> Option<OsString> {
        (name == "HOME").then(|| "/home/paper".into())
    }

    fn is_root(&self) -> bool {
        self.root
    }

    fn own(&self) -> (u32, u32) {
        if self.root { (0, 0) } else { (1000, 1000) }
    }

    fn cpus(&self) -> u16 {
        4
    }

    fn lingers(&self) -> bool {
        false
    }

    fn is_usable(&self, _: &Path) -> bool {
        true
    }

    fn is_inhabited(&self, _: &Path) -> bool {
        false
    }

    fn look(&self, _: &Path, wanted: Seen) -> Seen {
        wanted
    }

    fn read(&self, _: &Path, _: usize) -> Option<Vec<u8>> {
        None
    }

    fn user(&self, name: &str) -> Result<Option<Identity>, String> {
        let known = [("root", 0), ("paper", 1000), ("www-data", 33), ("node", 1001), ("chat", 1002)];
        let found = known.into_iter().find(|(known, uid)| *known == name || uid.to_string() == name);
        Ok(found.map(|(name, id)| Identity {
            uid: id,
            gid: id,
            name: name.into(),
            home: Path::new("/home").join(name),
        }))
    }

    fn barrier(&self, _: &Path, _: &Identity) -> Option<Barrier> {
        None
    }

    fn variables(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        Ok(name.parse().ok().or(self.user(name)?.map(|user| user.gid)))
    }
}
