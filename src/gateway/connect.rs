//! Connecting to a worker's socket, the same for every path a request may take.

use async_trait::async_trait;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// How long a worker's full accept queue is waited for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Connects to a worker. A full accept queue answers `EAGAIN` at once on a Unix socket, where TCP
/// would wait: the worker lives and is only busy, so we wait too.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
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
#[derive(Debug)]
pub(super) struct Connector;

#[async_trait]
impl L4Connect for Connector {
    async fn connect(&self, addr: &SocketAddr) -> Result<Stream> {
        let SocketAddr::Unix(unix) = addr else {
            return Error::e_explain(ErrorType::ConnectError, "a worker has a Unix socket");
        };
        let Some(path) = unix.as_pathname() else {
            return Error::e_explain(ErrorType::ConnectError, "a worker's socket has a path");
        };
        let stream = connect(path).await.or_err_with(ErrorType::ConnectError, || format!("to {}", path.display()))?;
        Ok(stream.into())
    }
}
