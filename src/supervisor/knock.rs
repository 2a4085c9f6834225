//! Whether a worker's socket takes connections, and whose process listens there.
//!
//! Pingora's own connectors read the certificates of the system's authorities and panic when one is damaged. Workers
//! have no TLS: their connections must not depend on it.

use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::HealthCheck;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// For a worker's socket to take a connection.
const LIMIT: Duration = Duration::from_secs(2);

/// Connections that Pingora keeps open between two health checks: it makes a new one for each.
const KEPT: usize = 1;

/// The health check of a worker that is asked nothing: its socket takes a connection.
pub(super) struct Knock;

#[async_trait]
impl HealthCheck for Knock {
    async fn check(&self, target: &Backend) -> Result<()> {
        let SocketAddr::Unix(unix) = &target.addr else {
            return Error::e_explain(ErrorType::ConnectError, "a worker has a Unix socket");
        };
        let path = unix.as_pathname().ok_or_else(|| Error::explain(ErrorType::ConnectError, "its socket has no path"));
        connect(path?).await.map(drop).explain_err(ErrorType::ConnectError, |why| why)
    }

    /// The fleet counts.
    fn health_threshold(&self, _: bool) -> usize {
        1
    }
}

async fn connect(path: &Path) -> Result<UnixStream, String> {
    let connected = tokio::time::timeout(LIMIT, UnixStream::connect(path)).await;
    connected.map_err(|_| "it does not accept".to_owned())?.map_err(|e| e.to_string())
}

/// Sees that a process of this user listens, and nobody else who could write in the same directory.
pub(super) async fn listens_as(socket: &str, user: Option<u32>) -> Result<(), String> {
    let Some(user) = user else { return Ok(()) };
    match connect(Path::new(socket)).await?.peer_cred() {
        Ok(peer) if peer.uid() == user => Ok(()),
        Ok(peer) => Err(format!("user {} listens there, and not user {user}", peer.uid())),
        Err(e) => Err(format!("who listens there is not known: {e}")),
    }
}

/// For Pingora's connectors to workers: without certificates.
pub(super) fn without_tls() -> ConnectorOptions {
    ConnectorOptions { ca_file: Some("/dev/null".to_owned()), ..ConnectorOptions::new(KEPT) }
}

/// What a health check found, for people.
pub(super) fn why(error: &Error) -> String {
    error.context.as_ref().map_or_else(|| error.etype().as_str().to_owned(), |context| context.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Member, backend};
    use crate::worker::{Incarnation, Slot, WorkerId};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_socket_is_well_while_somebody_listens() {
        let path = std::env::temp_dir().join(format!("knock-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        let socket: Arc<str> = path.to_str().unwrap().into();
        let backend = backend(&Arc::new(Member::new(id, None, socket.clone()))).unwrap();
        let gone = Knock.check(&backend).await.unwrap_err();
        assert!(why(&gone).contains("No such file"), "{gone}");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        Knock.check(&backend).await.unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(listens_as(&socket, Some(own)).await, Ok(()));
        assert!(listens_as(&socket, Some(own + 1)).await.unwrap_err().contains("and not user"));
        drop(listener);
        let refused = Knock.check(&backend).await.unwrap_err();
        assert!(why(&refused).contains("refused"), "{refused}");
        std::fs::remove_file(&path).unwrap();
    }
}
