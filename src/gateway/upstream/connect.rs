//! Connecting to a worker's socket, the same for every path a request may take.

use crate::pool::Member;
use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How long a worker's full accept queue is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Between two words about a socket that is not its worker's.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Connects to a worker. Where others could have put a socket of theirs in the place of the worker's, the
/// kernel is asked who listens (SO_PEERCRED, unix(7)) before anything of a client goes there.
pub(in crate::gateway) async fn connect(member: &Member) -> io::Result<UnixStream> {
    open(Path::new(&*member.socket), member.user).await
}

async fn open(path: &Path, user: Option<u32>) -> io::Result<UnixStream> {
    let stream = queue(path).await?;
    let Some(user) = user else { return Ok(stream) };
    let listens = stream.peer_cred()?.uid();
    if listens == user {
        return Ok(stream);
    }
    let why = format!("user {listens} listens at {}, and not the worker's user {user}", path.display());
    if may_warn() {
        log::warn!("{why}; no request goes there");
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

fn may_warn() -> bool {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(|e| e.into_inner());
    let due = last.is_none_or(|at| at.elapsed() >= WARN_EVERY);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// A full accept queue answers `EAGAIN` at once on a Unix socket, where TCP
/// would wait: the worker lives and is only busy, so we wait too.
async fn queue(path: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() + pause > deadline {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the worker's accept queue stays full"));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

/// The same for Pingora's own connections.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Connector {
    /// See [`Member::user`].
    pub(in crate::gateway) user: Option<u32>,
}

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let SocketAddr::Unix(unix) = addr else {
            return Error::e_explain(ErrorType::ConnectError, "a worker has a Unix socket");
        };
        let Some(path) = unix.as_pathname() else {
            return Error::e_explain(ErrorType::ConnectError, "a worker's socket has a path");
        };
        let stream =
            open(path, self.user).await.or_err_with(ErrorType::ConnectError, || format!("to {}", path.display()))?;
        Ok(stream.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{Incarnation, Slot, WorkerId};
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_socket_of_another_user_gets_nothing() {
        let path = std::env::temp_dir().join(format!("connect-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let socket: Arc<str> = path.to_str().unwrap().into();
        let member = |user| {
            let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
            Member::new(id, None, socket.clone()).of_user(user)
        };
        for user in [None, Some(own)] {
            connect(&member(user)).await.unwrap();
            listener.accept().await.unwrap();
        }
        let refused = connect(&member(Some(own + 1))).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&format!("user {own} listens")), "{refused}");
        assert_eq!(listener.accept().await.unwrap().0.read(&mut [0; 9]).await.unwrap(), 0);
        let address = SocketAddr::Unix(std::os::unix::net::SocketAddr::from_pathname(&path).unwrap());
        assert!(Connector { user: Some(own) }.connect(&address).await.is_ok());
        assert!(Connector { user: Some(own + 1) }.connect(&address).await.is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
