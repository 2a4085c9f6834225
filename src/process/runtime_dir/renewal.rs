//! Sockets of the proxy that somebody removed, or put a dead one in their place, are bound again.

use super::{RuntimeDir, answers};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Watches one socket that the owner of a runtime directory listens on.
#[derive(Debug)]
pub(crate) struct Renewal {
    runtime_dir: PathBuf,
    path: PathBuf,
    /// Device and inode of what this process has bound.
    own: Option<(u64, u64)>,
}

impl Renewal {
    /// For a socket that stands at `path` now.
    pub(crate) fn new(runtime_dir: &Path, path: PathBuf) -> Renewal {
        let own = identity(&path);
        Renewal { runtime_dir: runtime_dir.to_owned(), path, own }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Binds again by `bind` if that is needed. `None`: it is not, the directory is another proxy's by now or is not
    /// there, or the proxy ends.
    pub(crate) fn renew<T>(&mut self, bind: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
        if !self.is_lost() || !self.is_holder() || !self.path.parent().is_some_and(Path::is_dir) {
            return None;
        }
        // A dead one: whoever moved it here may have removed it meanwhile.
        let _ = fs::remove_file(&self.path);
        let bound = match bind() {
            Ok(bound) => bound,
            Err(error) => return Some(Err(error)),
        };
        self.own = identity(&self.path);
        // The directory is emptied after its lock says so: either that has found this socket, or we see it here.
        if !self.is_holder() {
            let _ = fs::remove_file(&self.path);
            return None;
        }
        Some(Ok(bound))
    }

    fn is_holder(&self) -> bool {
        RuntimeDir::holder(&self.runtime_dir) == Some(Some(std::process::id()))
    }

    /// Nothing stands at the path, or a socket that is not ours and that nobody listens on.
    fn is_lost(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(meta) if Some((meta.dev(), meta.ino())) == self.own => false,
            Ok(meta) => meta.file_type().is_socket() && !answers(&self.path),
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::Temp;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_is_bound_again_when_it_is_gone_or_dead_and_only_by_the_holder() {
        let temp = Temp::new();
        let dir = RuntimeDir::open(&temp.0.join("run"), Vec::new()).unwrap();
        let path = dir.path().join("admin.sock");
        let first = UnixListener::bind(&path).unwrap();
        let mut renewal = Renewal::new(dir.path(), path.clone());
        let bind = || UnixListener::bind(&path);
        assert!(renewal.renew(bind).is_none(), "it stands there");

        fs::remove_file(&path).unwrap();
        let second = renewal.renew(bind).unwrap().unwrap();
        assert!(answers(&path) && renewal.renew(bind).is_none());

        let dead = dir.path().join("dead");
        drop(UnixListener::bind(&dead).unwrap());
        fs::rename(&dead, &path).unwrap();
        let third = renewal.renew(bind).unwrap().unwrap();
        assert!(answers(&path));

        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        assert!(renewal.renew(bind).is_none(), "somebody listens there");

        let place = dir.path().to_owned();
        drop((first, second, third, other, dir));
        fs::create_dir_all(&place).unwrap();
        assert!(renewal.renew(bind).is_none(), "the directory is nobody's");
        assert!(!path.exists());
    }
}
