//! Accepts connections on the sockets that are ours.

use crate::process::readable;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{GetSocketDigest, SocketDigest, Stream};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

/// Connections accepted in a row, before others have their turn.
const BATCH: usize = 32;
/// Before the next attempt where the system has no room for another connection.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Between two words about that.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// When a client that has vanished without a word is noticed: after 60 s + 4 x 15 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// A connection that no runtime knows yet.
pub(super) struct Accepted {
    fd: OwnedFd,
    /// `None`: on a Unix socket.
    peer: Option<SocketAddr>,
}

impl Accepted {
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip())
    }

    /// Pingora's stream for it, unbuffered. Within the runtime that is to serve it.
    pub(super) fn into_stream(self) -> io::Result<Stream> {
        let mut stream = match self.peer {
            Some(_) => L4Stream::from(TcpStream::from_std(self.fd.into())?),
            None => L4Stream::from(UnixStream::from_std(self.fd.into())?),
        };
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // The cell is new and empty.
        let _ = digest.peer_addr.set(self.peer.map(Into::into));
        stream.set_socket_digest(digest);
        Ok(Box::new(stream))
    }
}

/// Accepts on one socket until it is stopped.
pub(super) async fn accept(
    address: String,
    socket: OwnedFd,
    mut stop: watch::Receiver<bool>,
    mut place: impl FnMut(Accepted),
) -> io::Result<()> {
    let is_tcp = address.parse::<SocketAddr>().is_ok();
    if is_tcp {
        // What connects from now on has these from its beginning.
        tune(&socket)?;
    }
    let socket = readable(socket)?;
    let mut is_tuned = false;
    loop {
        let mut readable = tokio::select! {
            readable = socket.readable() => readable?,
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        let outcome = (0..BATCH).try_for_each(|_| {
            let (fd, peer) = take(&socket)?;
            if is_tcp && !is_tuned {
                let _ = tune(&fd);
            }
            place(Accepted { fd, peer });
            Ok(())
        });
        match outcome {
            Ok(()) => tokio::task::yield_now().await,
            Err(Errno::AGAIN) => {
                readable.clear_ready();
                is_tuned = true;
            }
            Err(error) => {
                complain(&address, error);
                tokio::select! {
                    () = tokio::time::sleep(RETRY_DELAY) => {}
                    _ = stop.wait_for(|stop| *stop) => return Ok(()),
                }
            }
        }
    }
}

/// The next connection that was not given up before its turn.
fn take(socket: impl AsFd) -> Result<(OwnedFd, Option<SocketAddr>), Errno> {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match acceptfrom_with(&socket, flags) {
            Ok((fd, peer)) => return Ok((fd, peer.and_then(|peer: SocketAddrAny| SocketAddr::try_from(peer).ok()))),
            Err(error) if is_of_one_connection(error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Errors that a new connection brings with it (accept(2), "Error handling").
fn is_of_one_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR
            | Errno::CONNABORTED
            | Errno::NETDOWN
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::OPNOTSUPP
            | Errno::NETUNREACH
    )
}

/// Small writes leave at once, and clients that have vanished are noticed. Linux passes all of it on from a listening
/// socket to its connections.
fn tune(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    Ok(())
}

fn complain(address: &str, error: Errno) {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if last.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
        return;
    }
    *last = Some(Instant::now());
    let advice = match error {
        Errno::MFILE => "; raise the limit of open files (ulimit -n, LimitNOFILE=) or lower limits.connections",
        Errno::NFILE => "; the system has no open files left (fs.file-max)",
        _ => "",
    };
    log::warn!("{address} cannot accept a connection, others wait: {error}{advice}");
}

#[cfg(test)]
mod tests;
