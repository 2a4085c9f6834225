//! One open connection on its way to another process.

use std::fmt;
use std::os::fd::OwnedFd;
use zeroize::Zeroizing;

/// A connection's state, in the words of whoever moves it, and its sockets. The state may hold keys of TLS: it is not
/// printed, and wiped in the end.
pub(crate) struct ConnectionTransfer {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl fmt::Debug for ConnectionTransfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionTransfer").field("bytes", &self.bytes.len()).field("fds", &self.fds).finish()
    }
}
