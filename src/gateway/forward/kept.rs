//! Idle connections to a worker, kept for its next requests while the pool has it.

use crate::pool::{self, Member};
use crossbeam_queue::ArrayQueue;
use std::any::Any;
use std::io;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Kept per worker; more are closed.
const MAX_KEPT: usize = 256;

#[derive(Debug)]
struct Kept {
    stream: UnixStream,
    since: Instant,
}

#[derive(Debug)]
struct Queue(ArrayQueue<Kept>);

impl pool::Kept for Queue {
    fn clear(&self) {
        while self.0.pop().is_some() {}
    }
}

fn queue(member: &Member) -> Option<&Queue> {
    let kept: &dyn Any = member.kept.get_or_init(|| Box::new(Queue(ArrayQueue::new(MAX_KEPT)))).as_ref();
    kept.downcast_ref()
}

/// A kept connection that is younger than `limit` and that the worker has not closed.
pub(super) fn take(member: &Member, limit: Duration) -> Option<UnixStream> {
    let queue = queue(member)?;
    while let Some(kept) = queue.0.pop() {
        if kept.since.elapsed() < limit && is_quiet(&kept.stream) {
            return Some(kept.stream);
        }
    }
    None
}

pub(super) fn keep(member: &Member, stream: UnixStream) {
    if let Some(queue) = queue(member) {
        // The oldest makes room.
        queue.0.force_push(Kept { stream, since: Instant::now() });
        // The last of its requests may end long after it has left.
        if !member.is_seated() {
            pool::Kept::clear(queue);
        }
    }
}

/// Neither closed nor with bytes that nobody asked for. Asks the runtime's readiness, so the
/// operating system is only asked when there is something.
fn is_quiet(stream: &UnixStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::affinity::{Affinity, Balance};
    use crate::pool::{Pool, QueuePolicy, Seat};
    use crate::worker::{Incarnation, Slot, WorkerId};
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    const YOUNG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_leaves_the_pool_keeps_no_connection() {
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        let member = Arc::new(Member::new(id, None, "/run/app.sock".into()));
        let pools =
            [0, 1].map(|_| Pool::new("app".into(), Affinity::None, Balance::LeastLoaded, QueuePolicy::default()));
        let seat = |open| vec![Seat { member: member.clone(), open }];
        for pool in &pools {
            pool.publish(seat(true)).await;
        }
        let (ours, mut worker) = UnixStream::pair().unwrap();
        keep(&member, ours);
        // Cordoned, it still has its sessions.
        pools[0].publish(seat(false)).await;
        let ours = take(&member, YOUNG).unwrap();
        keep(&member, ours);
        for pool in &pools {
            pool.publish(Vec::new()).await;
        }
        assert_eq!(worker.read(&mut [0; 1]).await.unwrap(), 0);
        // A request that had begun ends now.
        let (ours, mut worker) = UnixStream::pair().unwrap();
        keep(&member, ours);
        assert_eq!(worker.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(take(&member, YOUNG).is_none());
        // It answers again.
        pools[0].publish(seat(true)).await;
        let (ours, _worker) = UnixStream::pair().unwrap();
        keep(&member, ours);
        assert!(take(&member, YOUNG).is_some());
    }
}
