//! Gives a connection between two requests to another process.

use super::format::{self, Contents};
use crate::gateway::downstream::connection::Connection;
use crate::gateway::downstream::connections::ConnectionGuard;
use crate::process::ConnectionTransfer;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;

/// For the successor to take one connection or tunnel; what it does not take in time stays here.
const GIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends a connection to another process. `false`: it goes on here, and ends here if nobody takes it.
///
/// `listener` is the address of the listener it came in at.
pub(in crate::gateway) async fn connection(connection: &mut Connection, idle: Duration, listener: SocketAddr) -> bool {
    let transfer = || -> io::Result<ConnectionTransfer> {
        let fd = format::descriptor(&connection.stream)?.try_clone_to_owned()?;
        let contents = Contents::Connection(format::Connection {
            peer: format::peer(&connection.stream),
            listener: Some(listener),
            greeting: connection.may_be_http2,
            idle_ms: format::millis(idle),
            left_ms: connection.head_wait_left.map(format::millis),
        });
        Ok(ConnectionTransfer { bytes: contents.pack(&[&connection.read_ahead])?, fds: vec![fd] })
    };
    // What stays here is dropped, not closed: the descriptor that was sent is the same connection.
    let transfer = transfer();
    send(&mut connection.guard, transfer, "a connection").await
}

/// Sends a transfer where connections are given to. `false`: it stays, for good.
pub(in crate::gateway) async fn send(
    guard: &mut ConnectionGuard,
    transfer: io::Result<ConnectionTransfer>,
    what: &str,
) -> bool {
    let Some(mover) = guard.mover() else { return false };
    let given = match transfer {
        Ok(transfer) => timeout(GIVE_TIMEOUT, mover.send(transfer)).await.is_ok_and(|sent| sent.is_ok()),
        Err(error) => {
            log::warn!("{what} cannot be moved: {error}");
            false
        }
    };
    if !given {
        guard.stay();
    }
    given
}
