//! Descriptors where the libraries ask for a promise about them.

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use pingora_core::protocols::l4::stream::Stream;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The descriptor of a stream; `None` for one that has none (a virtual one). Pingora gives it as a plain number only.
pub(crate) fn descriptor(stream: &Stream) -> Option<BorrowedFd<'_>> {
    let raw = stream.as_raw_fd();
    // SAFETY: the stream owns this descriptor and closes it only when it is dropped, which the borrow rules out.
    (raw >= 0).then(|| unsafe { BorrowedFd::borrow_raw(raw) })
}

/// The process that has connected a Unix socket, as the kernel knows it (SO_PEERCRED, unix(7)); `None` for one of another PID
/// namespace.
pub(crate) fn peer_pid(stream: &Stream) -> Option<u32> {
    let peer = getsockopt(&descriptor(stream)?, PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| *pid > 0)
}

/// Waits for a descriptor, which must be nonblocking, to become readable. Within a runtime.
pub(crate) fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor belongs to what watches it, and stays the same until both are dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
