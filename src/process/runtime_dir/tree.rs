//! Directories, sockets and FIFOs: made, looked at, removed. No link is ever followed.

use super::Error;
use crate::process::worker_socket::hold;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Returns how many directories it made, counted from `path` upwards.
pub(in crate::process) fn make_with_parents(path: &Path) -> Result<usize, Error> {
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
pub(super) fn check_own(path: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
    let own = rustix::process::geteuid().as_raw();
    let what = if meta.is_symlink() {
        "is a symbolic link; remove it or set another runtime_dir".to_owned()
    } else if !meta.is_dir() {
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

/// Says whose it is, where the kernel only says that we may not.
pub(super) fn check_owner(path: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(path).map_err(Error::io(format!("looking at {}", path.display())))?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() == own {
        return Ok(());
    }
    let what = format!("{} belongs to user {}, not to us ({own}); remove it", path.display(), meta.uid());
    Err(Error::Unsafe { path: path.parent().unwrap_or(path).into(), what })
}

pub(in crate::process) fn remove_upwards(path: &Path, levels: usize) {
    for dir in path.ancestors().take(levels) {
        if fs::remove_dir(dir).is_err() {
            break;
        }
    }
}

pub(super) fn make(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::Io { doing: format!("making directory {}", path.display()), source: e })
        }
        // A link would lead us to remove elsewhere what nobody uses.
        Err(_) if !is_dir(path) => {
            Err(Error::Unsafe { path: path.into(), what: "is not a directory; remove it".into() })
        }
        _ => chmod(path, mode),
    }
}

/// Not by a link.
pub(super) fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

pub(super) fn chmod(path: &Path, mode: u32) -> Result<(), Error> {
    let set = fs::set_permissions(path, Permissions::from_mode(mode));
    set.map_err(Error::io(format!("setting the mode of {}", path.display())))
}

/// Keeps a directory from aging, for as long as the file is open: systemd-tmpfiles(8) passes over what is locked.
pub(in crate::process) fn lock_shared(path: &Path) -> Option<File> {
    let flags = nix::libc::O_DIRECTORY | nix::libc::O_NOFOLLOW;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    // Whoever cleans up just now holds it for a moment: it is tried again.
    flock(&file, FlockOperation::NonBlockingLockShared).ok().map(|()| file)
}

pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = fs::read_dir(dir).and_then(|list| list.map(|entry| entry.map(|e| e.path())).collect());
    list.map_err(Error::io(format!("listing {}", dir.display())))
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether anybody listens on a socket. Does not wait for one that is busy.
pub(crate) fn answers(path: &Path) -> bool {
    matches!(connects(path), Ok(()) | Err(rustix::io::Errno::AGAIN))
}

/// Connects without waiting for a place in the queue of one that is busy: then it is `AGAIN`, as when we have no
/// descriptor left to try with.
pub(in crate::process) fn connects(path: &Path) -> rustix::io::Result<()> {
    dial(path).map(drop)
}

/// The same, with the connection.
pub(in crate::process) fn dial(path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::io::Errno;
    // Whoever may write there could lead us elsewhere in between.
    let held = hold(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::ACCESS))?;
    held.connect().map_err(|error| if matches!(error, Errno::MFILE | Errno::NFILE) { Errno::AGAIN } else { error })
}

/// Whether a process listens on this socket or holds this FIFO open.
pub(in crate::process) fn is_in_use(path: &Path) -> bool {
    match fs::symlink_metadata(path).map(|meta| meta.file_type()) {
        Ok(kind) if kind.is_socket() => answers(path),
        // Without a reader, opening for writing fails; a worker holds both ends.
        Ok(kind) if kind.is_fifo() => {
            OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).is_ok()
        }
        _ => false,
    }
}
