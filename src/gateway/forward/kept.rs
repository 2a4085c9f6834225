//! Idle connections to a worker, kept for its next requests. They live with the worker's entry in
//! the pool and end with it.

use crate::pool::Member;
use crossbeam_queue::ArrayQueue;
use std::io;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Kept per worker; more are closed.
const MAX_KEPT: usize = 256;

struct Kept {
    stream: UnixStream,
    since: Instant,
}

type Queue = ArrayQueue<Kept>;

fn queue(member: &Member) -> Option<&Queue> {
    member.kept.get_or_init(|| Box::new(Queue::new(MAX_KEPT))).downcast_ref()
}

/// A kept connection that is younger than `limit` and that the worker has not closed.
pub(super) fn take(member: &Member, limit: Duration) -> Option<UnixStream> {
    let queue = queue(member)?;
    while let Some(kept) = queue.pop() {
        if kept.since.elapsed() < limit && is_quiet(&kept.stream) {
            return Some(kept.stream);
        }
    }
    None
}

pub(super) fn keep(member: &Member, stream: UnixStream) {
    if let Some(queue) = queue(member) {
        // The oldest makes room.
        queue.force_push(Kept { stream, since: Instant::now() });
    }
}

/// Neither closed nor with bytes that nobody asked for. Asks the runtime's readiness, so the
/// operating system is only asked when there is something.
fn is_quiet(stream: &UnixStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
