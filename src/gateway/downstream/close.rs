//! The end of a client's connection, so that what was sent last arrives.

use crate::gateway::migration::format;
use pingora_core::protocols::Stream;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How much of what a client still sends after its last answer is read, and for how long it may take that answer.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a whole message, then closes.
pub(in crate::gateway) async fn send_and_close(mut stream: Stream, message: &[u8]) {
    let sent = timeout(LINGER_TIMEOUT, async {
        stream.write_all(message).await?;
        stream.flush().await
    });
    let sent: Result<io::Result<()>, _> = sent.await;
    if let Ok(Ok(())) = sent {
        close(stream).await;
    }
}

/// Makes the close that follows a reset: a client that has no other sign must see that its answer is not whole.
pub(in crate::gateway) fn reset_on_close(stream: &Stream) {
    if let Some(fd) = format::socket(stream)
        && let Err(error) = rustix::net::sockopt::set_socket_linger(fd, Some(Duration::ZERO))
    {
        log::debug!("a cut answer ends without a reset: {error}");
    }
}

/// Closes so that what was sent arrives: data that nobody reads would turn the close into a reset, which discards an
/// answer on its way.
pub(in crate::gateway) async fn close(mut stream: Stream) {
    let linger = async {
        stream.shutdown().await?;
        let mut discard = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut discard).await? {
                0 => return Ok(()),
                n => left = left.saturating_sub(n),
            }
        }
        // It sends on. What the kernel does not take holds it up, where a reset would keep it from its answer.
        std::future::pending::<io::Result<()>>().await
    };
    // Whatever comes of it, the connection ends here.
    let _ = timeout(LINGER_TIMEOUT, linger).await;
}
