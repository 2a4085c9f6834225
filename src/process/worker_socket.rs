//! A connection to a worker's socket, and proof that it is that worker's.
//!
//! A worker's user can put anything in the place of its socket, at any time: a link to `admin.sock`, to a socket that
//! only root may use, to another app's worker. In a directory that others may write, others can, too. So every
//! connection to a worker, whoever makes it and for whatever purpose, is made here: no link is followed, what is
//! looked at is what is connected to, and the kernel says who listens.

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixStream;

/// In unit tests this process is the worker, too.
const OWN_SOCKETS_REFUSED: bool = cfg!(not(test));

/// Connects to the socket of a worker that runs as `user`. A full accept queue is [`io::ErrorKind::WouldBlock`].
///
/// Where nothing stands at the path any more, `pinned` is connected to: what [`prove`] has found there before. So a worker
/// is reached although its directory was removed, and by the same rules.
///
/// Beyond the connection itself it costs four system calls: open, fstat, getsockopt, close.
///
/// # Errors
/// As connect(2) has it; [`io::ErrorKind::PermissionDenied`] where something else stands there, of which nothing was
/// asked then.
pub(crate) async fn connect(
    path: &Path,
    user: u32,
    pinned: impl FnOnce() -> Option<Arc<OwnedFd>>,
) -> io::Result<UnixStream> {
    Ok(prove(path, user, pinned).await?.0)
}

/// The same; returns also what was connected to, which stays the same when its path is removed.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn prove(
    path: &Path,
    user: u32,
    pinned: impl FnOnce() -> Option<Arc<OwnedFd>>,
) -> io::Result<(UnixStream, Arc<OwnedFd>)> {
    let held = hold(path).or_else(|error| match is_gone(&error).then(pinned).flatten() {
        Some(fd) => Held::of(fd, path),
        None => Err(error),
    })?;
    let shown = path.display();
    // Root gives sockets away: a master process binds, and its children run as another user.
    if held.owner != user && user != 0 {
        return Err(refused(format_args!("{shown} belongs to user {}, not to the worker's user {user}", held.owner)));
    }
    // At once: what is held takes a descriptor more, and none waits for others with it.
    let stream = held.connect().map_err(|error| without_proc(error.into()))?;
    let stream = UnixStream::from_std(stream.into())?;
    // Of when that process called listen(2), see unix(7): also where it has given up root since.
    let listener = stream.peer_cred()?;
    if listener.uid() != user {
        let found = listener.uid();
        return Err(refused(format_args!("user {found} listens at {shown}, not the worker's user {user}")));
    }
    // Our own user's worker can give our sockets other names.
    if OWN_SOCKETS_REFUSED && listener.pid() == i32::try_from(std::process::id()).ok() {
        return Err(refused(format_args!("{shown} is a socket of the proxy itself")));
    }
    Ok((stream, held.fd))
}

/// Whether nothing stands at a path, as its directory was removed, say.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A socket that stays the same whatever is put in the place of its path.
pub(super) struct Held {
    fd: Arc<OwnedFd>,
    owner: u32,
}

impl Held {
    fn of(fd: Arc<OwnedFd>, path: &Path) -> io::Result<Held> {
        let there = fstat(&fd)?;
        let shown = path.display();
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Socket => Ok(Held { fd, owner: there.st_uid }),
            FileType::Symlink => Err(refused(format_args!("{shown} is a symbolic link"))),
            _ => Err(refused(format_args!("{shown} is no socket"))),
        }
    }

    /// Connects at once, or not at all: `AGAIN` where the accept queue is full.
    pub(super) fn connect(&self) -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect_to(&socket, &SocketAddrUnix::new(self.path())?)?;
        Ok(socket)
    }

    /// By which it can be connected to: proc_pid_fd(5).
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// Gets hold of the socket at a path, without asking it anything.
///
/// # Errors
/// There is none, or something else: [`io::ErrorKind::PermissionDenied`].
pub(super) fn hold(path: &Path) -> io::Result<Held> {
    let fd = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    Held::of(Arc::new(fd), path)
}

fn refused(why: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_string())
}

/// What we hold is there: if it is not found, the way to it is not.
fn without_proc(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("/proc is not mounted, and without it no worker can be reached"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Temp;
    use super::*;
    use std::os::unix::fs::{chown, symlink};
    use tokio::net::UnixListener;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    async fn connect(path: &Path, user: u32) -> io::Result<UnixStream> {
        super::connect(path, user, || None).await
    }

    async fn why(path: &Path, user: u32) -> String {
        let refused = connect(path, user).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
        refused.to_string()
    }

    #[tokio::test]
    async fn a_worker_is_reached_and_nobody_else() {
        let temp = Temp::new();
        let path = temp.0.join("worker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        connect(&path, own()).await.unwrap();
        listener.accept().await.unwrap();
        assert!(why(&path, own() + 1).await.contains("not to the worker's user"));
        let link = temp.0.join("link.sock");
        symlink(&path, &link).unwrap();
        assert!(why(&link, own()).await.ends_with("is a symbolic link"));
        std::fs::write(temp.0.join("file"), "").unwrap();
        assert!(why(&temp.0.join("file"), own()).await.ends_with("is no socket"));
        drop(listener);
        assert_eq!(connect(&path, own()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(connect(&path, own()).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Who listens counts, whoever owns the name.
    #[tokio::test]
    async fn a_socket_that_was_given_away_is_still_its_listeners() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root gives sockets away");
            return;
        }
        let temp = Temp::new();
        let path = temp.0.join("worker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        chown(&path, Some(65_534), None).unwrap();
        connect(&path, 0).await.unwrap();
        listener.accept().await.unwrap();
        assert!(why(&path, 65_534).await.starts_with("user 0 listens at "));
    }

    #[tokio::test]
    async fn what_was_proved_is_reached_without_its_path_and_only_then() {
        let temp = Temp::new();
        let path = temp.0.join("worker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (_, pin) = prove(&path, own(), || None).await.unwrap();
        listener.accept().await.unwrap();
        std::fs::remove_dir_all(&temp.0).unwrap();
        super::connect(&path, own(), || Some(pin.clone())).await.unwrap();
        listener.accept().await.unwrap();
        // The same rules hold.
        let refused = super::connect(&path, own() + 1, || Some(pin.clone())).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        // What stands there now is looked at first.
        std::fs::create_dir(&temp.0).unwrap();
        symlink("/", &path).unwrap();
        let refused = super::connect(&path, own(), || Some(pin.clone())).await.unwrap_err();
        assert!(refused.to_string().ends_with("is a symbolic link"), "{refused}");
        std::fs::remove_file(&path).unwrap();
        drop(listener);
        let refused = super::connect(&path, own(), || Some(pin)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn what_is_held_is_what_is_connected_to() {
        let temp = Temp::new();
        let path = temp.0.join("worker.sock");
        let (first, held) = (UnixListener::bind(&path).unwrap(), hold(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        let _stream = UnixStream::connect(held.path()).await.unwrap();
        first.accept().await.unwrap();
    }
}
