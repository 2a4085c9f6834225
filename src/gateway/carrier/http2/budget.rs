//! How much of a connection's answers may wait for its client, over all of its streams.

use bytes::{Buf, Bytes};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Workers are read from while a connection has fewer bytes waiting than this.
const LIMIT: usize = 1024 * 1024;
/// What a frame of any length costs beside its bytes, in bytes.
const FRAME_COST: usize = 256;

/// Bytes that were given to one connection and have not left.
#[derive(Default)]
pub(super) struct Budget {
    used: AtomicUsize,
    queue: Mutex<Queue>,
}

/// Streams that wait for room, the first come first.
#[derive(Default)]
struct Queue {
    next: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl Budget {
    /// Content for the connection, which counts until it has left or is dropped.
    pub(super) fn charge(self: &Arc<Self>, bytes: Bytes) -> Charged {
        let cost = bytes.len() + FRAME_COST;
        self.used.fetch_add(cost, Ordering::Relaxed);
        Charged { bytes, cost, budget: self.clone() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < LIMIT
    }

    pub(super) fn is_unused(&self) -> bool {
        self.used.load(Ordering::Relaxed) == 0
    }

    /// Nothing panics while the lock is held.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Each that is woken and still finds room wakes the next.
    fn wake(&self) {
        if self.has_room() {
            let first = self.queue().waiting.pop_first();
            if let Some((_, waker)) = first {
                waker.wake();
            }
        }
    }
}

/// Content on its way.
pub(super) struct Charged {
    bytes: Bytes,
    cost: usize,
    budget: Arc<Budget>,
}

impl Buf for Charged {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(dst)
    }

    fn advance(&mut self, n: usize) {
        self.bytes.advance(n);
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.cost, Ordering::Relaxed);
        self.budget.wake();
    }
}

/// One stream's turn to read from its worker.
pub(super) struct Turn {
    budget: Arc<Budget>,
    /// Its place in the queue, while it waits.
    place: Option<u64>,
}

impl Turn {
    pub(super) fn new(budget: Arc<Budget>) -> Turn {
        Turn { budget, place: None }
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Ready when the connection has room for more of an answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.budget.has_room() {
            self.leave();
            return Poll::Ready(());
        }
        let mut queue = self.budget.queue();
        let place = *self.place.get_or_insert_with(|| {
            queue.next += 1;
            queue.next
        });
        queue.waiting.insert(place, cx.waker().clone());
        Poll::Pending
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.budget.queue().waiting.remove(&place);
            self.budget.wake();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn poll(turn: &mut Turn) -> bool {
        turn.poll(&mut Context::from_waker(&noop_waker())).is_ready()
    }

    fn waiting(budget: &Budget) -> usize {
        budget.queue().waiting.len()
    }

    #[test]
    fn content_counts_until_it_is_dropped() {
        let budget = Arc::<Budget>::default();
        let mut content = budget.charge(Bytes::from_static(b"hello"));
        content.advance(4);
        assert_eq!((content.remaining(), content.chunk()), (1, &b"o"[..]));
        assert_eq!(budget.used.load(Ordering::Relaxed), 5 + FRAME_COST);
        drop(content);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_wait_in_their_order_and_wake_each_other() {
        let budget = Arc::<Budget>::default();
        let full = budget.charge(Bytes::from(vec![0; LIMIT]));
        let mut turns: Vec<Turn> = (0..4).map(|_| Turn::new(budget.clone())).collect();
        assert!(!turns.iter_mut().any(poll));
        // One that is asked again keeps its place.
        assert!(!poll(&mut turns[0]));
        assert_eq!(waiting(&budget), 4);
        drop(full);
        assert_eq!(waiting(&budget), 3, "the first is woken");
        assert!(poll(&mut turns[0]));
        assert_eq!(waiting(&budget), 2, "it wakes the second");
        // One that was woken and ends wakes the next.
        drop(turns.remove(1));
        assert_eq!(waiting(&budget), 1);
        let full = budget.charge(Bytes::from(vec![0; LIMIT]));
        drop(turns.pop());
        assert_eq!(waiting(&budget), 0, "one that ends leaves the queue");
        drop(full);
    }
}
