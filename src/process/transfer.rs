//! One open connection on its way to another process.

use std::os::fd::OwnedFd;

/// A connection's state, in the words of whoever moves it, and its sockets.
#[derive(Debug)]
pub(crate) struct ConnectionTransfer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}
