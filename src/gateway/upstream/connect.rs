//! Connecting to a worker's socket, the same for every path a request may take.

use crate::pool::Member;
use crate::process::worker_socket;
use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How long a worker's full accept queue is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Between two words about a socket that is not its worker's.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Connects to a worker, and to nobody else: [`worker_socket::connect`].
pub(in crate::gateway) async fn connect(member: &Member) -> io::Result<UnixStream> {
    queue(member).await.inspect_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied && may_warn() {
            log::warn!("no request goes to a socket that is not its worker's: {error}");
        }
    })
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
async fn queue(member: &Member) -> io::Result<UnixStream> {
    let deadline = Instant::now() + CONNECT_LIMIT;
    let mut pause = Duration::from_millis(1);
    let path = Path::new(&*member.socket);
    loop {
        match worker_socket::connect(path, member.user, || member.pinned.get()).await {
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
#[derive(Debug)]
pub(in crate::gateway) struct Connector {
    /// Whose socket it must be.
    pub(in crate::gateway) member: Arc<Member>,
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
        if path != Path::new(&*self.member.socket) {
            return Error::e_explain(ErrorType::ConnectError, "another worker's socket");
        }
        let connected = connect(&self.member).await;
        Ok(connected.or_err_with(ErrorType::ConnectError, || format!("to {}", path.display()))?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{Incarnation, Slot, WorkerId};

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
        connect(&member(own)).await.unwrap();
        listener.accept().await.unwrap();
        let refused = connect(&member(own + 1)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().contains(&format!("belongs to user {own}")), "{refused}");
        let address = SocketAddr::Unix(std::os::unix::net::SocketAddr::from_pathname(&path).unwrap());
        assert!(Connector { member: Arc::new(member(own)) }.connect(&address).await.is_ok());
        assert!(Connector { member: Arc::new(member(own + 1)) }.connect(&address).await.is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
