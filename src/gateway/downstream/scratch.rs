//! The thread's read buffer, so that a connection that waits holds none.

use std::cell::RefCell;

/// Bytes read at once from a client or a worker.
pub(in crate::gateway) const SCRATCH: usize = 16 * 1024;

/// Lends the thread's read buffer for one poll. It must not be asked for again within.
pub(in crate::gateway) fn with_scratch<R>(use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local! {
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
    }
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}
