//! Idle connections to a worker, kept for its next requests while the pool has it.
//!
//! Each thread has a shard of its own, as a connection is used by the thread whose runtime watches it: last in, first
//! out, so that two requests reach the worker in the order in which they came. One that has just answered rests a
//! moment, so that bytes a worker should not have sent are seen before the next request goes out on it; Node.js also
//! looks first at a connection that it has just served.
//!
//! A burst of requests leaves more connections than are needed afterwards. A shard therefore counts how many were left
//! unused at the busiest moment of a window, and [`sweep`] closes as many. [`evict`] closes some when clients need
//! their descriptors. To take or keep a connection no request waits for the lock of a shard.

use crate::gateway::descriptors::{Descriptors, IdleTaken};
use crate::gateway::rules::Rules;
use crate::pool::{self, Member};
use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::Instant;

/// Kept per worker and thread; more are closed.
const MAX_PER_SHARD: usize = 256;
/// Threads that keep connections. No two share a shard: a connection belongs to the runtime that watches it.
const SHARDS: usize = 64;
/// How long a connection rests after an answer.
const REST: Duration = Duration::from_micros(500);
/// Over which the connections that nobody needed are counted.
const SURPLUS_WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Idle {
    stream: UnixStream,
    since: Instant,
    _taken: IdleTaken,
}

#[derive(Debug, Default)]
struct Shard {
    idle: VecDeque<Idle>,
    /// The fewest rested ones that were left since the window began.
    fewest: usize,
    window: Option<Instant>,
    /// Requests of this thread that wait for a new connection.
    connecting: usize,
    /// When a request last found none that had rested.
    missed: Option<Instant>,
}

impl Shard {
    /// The one that was kept last of those that have rested.
    fn take(&mut self, now: Instant) -> Option<Idle> {
        // A request on a new connection, which the worker has to accept first, is not overtaken by the next one.
        if self.connecting > 0 || self.missed.is_some_and(|at| now.duration_since(at) < REST) {
            return None;
        }
        let idle = self.take_rested(now);
        self.missed = if idle.is_none() { Some(now) } else { None };
        idle
    }

    fn take_rested(&mut self, now: Instant) -> Option<Idle> {
        // They stand in the order in which they were kept.
        let rested = self.idle.partition_point(|idle| now.duration_since(idle.since) >= REST);
        self.fewest = self.fewest.min(rested.saturating_sub(1));
        self.idle.remove(rested.checked_sub(1)?)
    }

    /// What is over: too old, ended, or not needed in a whole window.
    fn sweep(&mut self, limit: Duration, now: Instant) -> Vec<Idle> {
        let mut over = Vec::new();
        for _ in 0..self.idle.len() {
            let Some(idle) = self.idle.pop_front() else { break };
            match now.duration_since(idle.since) >= limit || !is_quiet(&idle.stream) {
                true => over.push(idle),
                false => self.idle.push_back(idle),
            }
        }
        if now.duration_since(*self.window.get_or_insert(now)) >= SURPLUS_WINDOW {
            let surplus = self.fewest.min(self.idle.len());
            over.extend(self.idle.drain(..surplus));
            (self.fewest, self.window) = (self.idle.len(), Some(now));
        }
        self.fewest = self.fewest.min(self.idle.len());
        over
    }
}

#[derive(Debug)]
struct Shards([Mutex<Shard>; SHARDS]);

impl Shards {
    fn new() -> Shards {
        Shards(std::array::from_fn(|_| Mutex::default()))
    }

    fn each(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        // Nothing panics while one of these locks is held.
        self.0.iter().map(|shard| shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// The thread's own shard, unless a sweep has it just now.
    fn own(&self) -> Option<MutexGuard<'_, Shard>> {
        match self.0.get(thread_index())?.try_lock() {
            Ok(shard) => Some(shard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl pool::Kept for Shards {
    fn clear(&self) {
        // Closed after the lock is let go.
        self.each().map(|mut shard| std::mem::take(&mut shard.idle)).for_each(drop);
    }
}

fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static INDEX: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    INDEX.with(|index| *index)
}

fn shards(member: &Member) -> Option<&Shards> {
    let kept: &dyn Any = member.kept.get()?.as_ref();
    kept.downcast_ref()
}

/// A kept connection that is younger than `limit` and that the worker has neither closed nor written to.
pub(in crate::gateway) fn take(member: &Member, limit: Duration, now: Instant) -> Option<UnixStream> {
    let shards = shards(member)?;
    loop {
        let idle = shards.own()?.take(now)?;
        if now.duration_since(idle.since) < limit && is_quiet(&idle.stream) {
            return Some(idle.stream);
        }
    }
}

/// Says that a request waits for a new connection. Dropped when it has one, and goes out in the same poll.
pub(in crate::gateway) struct Connecting<'a>(&'a Member);

/// Tells the thread's other requests that one waits for a new connection.
pub(in crate::gateway) fn connecting(member: &Member) -> Connecting<'_> {
    count_connecting(member, |count| count + 1);
    Connecting(member)
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        count_connecting(self.0, |count| count.saturating_sub(1));
    }
}

/// A request stays on its thread. A sweep that holds the shard just now is short, and rarer than once in a second.
fn count_connecting(member: &Member, change: impl Fn(usize) -> usize) {
    member.kept.get_or_init(|| Box::new(Shards::new()));
    if let Some(shards) = shards(member) {
        let Some(shard) = shards.0.get(thread_index()) else { return };
        let mut shard = shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        shard.connecting = change(shard.connecting);
    }
}

/// Keeps a connection for the next request, where the thread has room for it and a descriptor is free; else closes it.
pub(in crate::gateway) fn keep(member: &Member, stream: UnixStream, descriptors: &Arc<Descriptors>) {
    let Some(taken) = descriptors.take_idle() else { return };
    member.kept.get_or_init(|| Box::new(Shards::new()));
    let Some(shards) = shards(member) else { return };
    if let Some(mut shard) = shards.own()
        && shard.idle.len() < MAX_PER_SHARD
    {
        shard.idle.push_back(Idle { stream, since: Instant::now(), _taken: taken });
    }
    // The last of its requests may end long after it has left the pool.
    if !member.is_seated() {
        pool::Kept::clear(shards);
    }
}

/// Closes what is older than its app's limit, what workers have closed, and what nobody needed in a whole window. Call
/// it about every second.
pub(in crate::gateway) fn sweep(rules: &Rules) {
    let now = Instant::now();
    for app in &rules.apps {
        for member in app.pool.members() {
            let Some(shards) = shards(&member) else { continue };
            // Closed after the locks are let go.
            let over: Vec<Vec<Idle>> = shards.each().map(|mut shard| shard.sweep(app.keep_alive, now)).collect();
            drop(over);
        }
    }
}

/// Closes at least `count` idle connections, the oldest of each shard first, so that their descriptors are free.
pub(in crate::gateway) fn evict(rules: &Rules, count: usize) {
    let mut left = count;
    for app in &rules.apps {
        for member in app.pool.members() {
            let Some(shards) = shards(&member) else { continue };
            for mut shard in shards.each() {
                let given_up = left.min(shard.idle.len());
                let closed: Vec<Idle> = shard.idle.drain(..given_up).collect();
                drop((shard, closed));
                left -= given_up;
                if left == 0 {
                    return;
                }
            }
        }
    }
}

/// Neither closed nor with bytes that nobody asked for. The kernel is asked: what the runtime has seen may be older, and
/// surplus bytes would be the answer to the next client's request.
fn is_quiet(stream: &UnixStream) -> bool {
    use rustix::net::{RecvFlags, recv};
    let peeked = recv(stream.as_fd(), &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(rustix::io::Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::affinity::{Affinity, Balance};
    use crate::pool::{Pool, QueuePolicy, Seat};
    use crate::worker::{Incarnation, Slot, WorkerId};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const YOUNG: Duration = Duration::from_secs(60);

    fn member() -> Arc<Member> {
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        Arc::new(Member::new(id, None, "/run/app.sock".into()))
    }

    async fn rested(member: &Member) -> Option<UnixStream> {
        tokio::time::sleep(2 * REST).await;
        take(member, YOUNG, Instant::now())
    }

    #[tokio::test]
    async fn the_last_that_has_rested_is_taken() {
        let (member, account) = (member(), Descriptors::new(100));
        let pool = Pool::new("app".into(), Affinity::None, Balance::LeastLoaded, QueuePolicy::default());
        pool.publish(vec![Seat { member: member.clone(), open: true }]).await;
        let mut workers = Vec::new();
        for _ in 0..2 {
            let (ours, worker) = UnixStream::pair().unwrap();
            keep(&member, ours, &account);
            workers.push(worker);
        }
        let mut second = rested(&member).await.unwrap();
        second.write_all(b"x").await.unwrap();
        assert_eq!(workers[1].read_u8().await.unwrap(), b'x');
        keep(&member, second, &account);
        let mut first = take(&member, YOUNG, Instant::now()).unwrap();
        first.write_all(b"y").await.unwrap();
        assert_eq!(workers[0].read_u8().await.unwrap(), b'y');
        assert!(take(&member, YOUNG, Instant::now()).is_none(), "the other rests");
    }

    #[tokio::test]
    async fn what_leaves_the_pool_keeps_no_connection() {
        let (member, account) = (member(), Descriptors::new(100));
        let pools =
            [0, 1].map(|_| Pool::new("app".into(), Affinity::None, Balance::LeastLoaded, QueuePolicy::default()));
        let seat = |open| vec![Seat { member: member.clone(), open }];
        for pool in &pools {
            pool.publish(seat(true)).await;
        }
        let (ours, mut worker) = UnixStream::pair().unwrap();
        keep(&member, ours, &account);
        // Cordoned, it still has its sessions.
        pools[0].publish(seat(false)).await;
        let stream = rested(&member).await.unwrap();
        keep(&member, stream, &account);
        for pool in &pools {
            pool.publish(Vec::new()).await;
        }
        assert_eq!(worker.read(&mut [0; 1]).await.unwrap(), 0);
        // A request that had begun ends now.
        let (ours, mut worker) = UnixStream::pair().unwrap();
        keep(&member, ours, &account);
        assert_eq!(worker.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(rested(&member).await.is_none());
        // It answers again.
        pools[0].publish(seat(true)).await;
        let (ours, _worker) = UnixStream::pair().unwrap();
        keep(&member, ours, &account);
        assert!(rested(&member).await.is_some());
        assert_eq!(account.used(), 0);
    }

    #[tokio::test]
    async fn bytes_that_nobody_asked_for_end_a_connection() {
        let (member, account) = (member(), Descriptors::new(100));
        let pool = Pool::new("app".into(), Affinity::None, Balance::LeastLoaded, QueuePolicy::default());
        pool.publish(vec![Seat { member: member.clone(), open: true }]).await;
        let (ours, mut worker) = UnixStream::pair().unwrap();
        keep(&member, ours, &account);
        worker.write_all(b"surplus").await.unwrap();
        assert!(rested(&member).await.is_none());
    }

    #[tokio::test]
    async fn idle_connections_take_only_what_is_free() {
        let (member, account) = (member(), Descriptors::new(1));
        let pool = Pool::new("app".into(), Affinity::None, Balance::LeastLoaded, QueuePolicy::default());
        pool.publish(vec![Seat { member: member.clone(), open: true }]).await;
        let (first, _one) = UnixStream::pair().unwrap();
        let (second, mut two) = UnixStream::pair().unwrap();
        keep(&member, first, &account);
        keep(&member, second, &account);
        assert_eq!(two.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!((account.used(), account.idle()), (1, 1));
    }
}
