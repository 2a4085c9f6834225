//! The descriptor of a connection that Pingora holds.

use pingora_core::protocols::l4::stream::Stream;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The descriptor of a stream; `None` for one that has none (a virtual one). Pingora gives it as a plain number only.
pub(crate) fn descriptor(stream: &Stream) -> Option<BorrowedFd<'_>> {
    let raw = stream.as_raw_fd();
    // SAFETY: the stream owns this descriptor and closes it only when it is dropped, which the borrow rules out.
    (raw >= 0).then(|| unsafe { BorrowedFd::borrow_raw(raw) })
}
