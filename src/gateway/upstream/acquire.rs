//! Finding a worker, and waiting for one in the app's queue.

use super::connect::connect;
use crate::gateway::request::plan::Plan;
use crate::gateway::request::retry::WorkerFault;
use crate::pool::{Lease, Member, Pool};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Between two looks of a request that waits, beside those for which it is woken.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Workers that could not take a request.
#[derive(Default)]
pub(in crate::gateway) struct Tried {
    all: Vec<Arc<Member>>,
    /// Those that could not be connected to: they may listen again.
    unreached: Vec<Arc<Member>>,
}

impl Tried {
    pub(in crate::gateway) fn add(&mut self, member: Arc<Member>, fault: WorkerFault) {
        if fault == WorkerFault::Unreachable {
            self.unreached.push(member.clone());
        }
        self.all.push(member);
    }

    /// How often, whoever it was.
    pub(in crate::gateway) fn times(&self) -> usize {
        self.all.len()
    }

    /// Of those that could not be connected to one that takes connections now, and picks it.
    async fn pick_again(&self, pool: &Pool, plan: &Plan<'_>) -> Option<Lease> {
        for member in self.unreached.iter().filter(|member| member.is_seated()) {
            if matches!(timeout(LOOK_INTERVAL, connect(member)).await, Ok(Ok(_))) {
                let others: Vec<_> = self.all.iter().filter(|one| !Arc::ptr_eq(one, member)).cloned().collect();
                if let Some(lease) = pool.select(plan.wanted(), plan.usage, &others) {
                    return Some(lease);
                }
            }
        }
        None
    }
}

/// Picks a worker for a plan, if one may take it now.
///
/// When `closing`, no worker is to come: those that are about to end take what is left.
pub(in crate::gateway) fn pick(
    pool: &Pool,
    plan: &Plan<'_>,
    tried: &Tried,
    closing: impl Fn() -> bool,
) -> Option<Lease> {
    let lease = pool.select(plan.wanted(), plan.usage, &tried.all);
    lease.or_else(|| if closing() { pool.select_last(plan.usage, &tried.all) } else { None })
}

/// Waits in the app's queue until [`pick`] finds a worker. `None`: that took too long, or too many wait already. Dropping
/// the future leaves the queue.
pub(in crate::gateway) async fn acquire(
    pool: &Pool,
    plan: &Plan<'_>,
    tried: &Tried,
    closing: impl Fn() -> bool,
) -> Option<Lease> {
    let pick = || pick(pool, plan, tried, &closing);
    if let Some(lease) = pick() {
        return Some(lease);
    }
    let (queue, policy) = (pool.queue(), pool.settings().queue);
    let began = Instant::now();
    let lease = match queue.enter(policy.max) {
        Some(_place) => timeout(policy.timeout, wait(pool, plan, tried, pick)).await.ok().flatten(),
        None => None,
    };
    queue.note_wait(began.elapsed());
    if lease.is_none() {
        queue.note_refusal();
    }
    lease
}

async fn wait(pool: &Pool, plan: &Plan<'_>, tried: &Tried, pick: impl Fn() -> Option<Lease>) -> Option<Lease> {
    let mut again_at = Instant::now() + LOOK_INTERVAL;
    loop {
        let mut woken = pin!(pool.queue().woken());
        woken.as_mut().enable();
        if let Some(lease) = pick() {
            return Some(lease);
        }
        if pool.queue().is_closed() {
            return None;
        }
        // A wake may have gone to a request that only another worker can serve.
        let _ = timeout_at(again_at, woken).await;
        if Instant::now() >= again_at {
            // A server that comes back at its place without a word wakes nobody.
            if let Some(lease) = tried.pick_again(pool, plan).await {
                return Some(lease);
            }
            again_at = Instant::now() + LOOK_INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::request::plan;
    use crate::pool::affinity::{Affinity, Balance};
    use crate::pool::{QueuePolicy, Seat};
    use crate::worker::{Incarnation, Slot, WorkerId};
    use http::HeaderMap;

    fn worker() -> Seat {
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        Seat { member: Arc::new(Member::new(id, None, "/run/app.sock".into())), open: true }
    }

    async fn any(pool: &Pool) -> Option<Lease> {
        let none = HeaderMap::new();
        acquire(pool, &plan::plan(&Affinity::None, b"/", &none, None, true, false), &Tried::default(), || false).await
    }

    fn queued(max: u32, timeout: Duration, max_concurrency: Option<u32>) -> Pool {
        let policy = QueuePolicy { max, timeout, max_concurrency };
        Pool::new("app".into(), Affinity::SocketIo, Balance::LeastLoaded, policy)
    }

    #[tokio::test(start_paused = true)]
    async fn requests_wait_for_the_first_worker() {
        let pool = Arc::new(queued(10, Duration::from_secs(5), None));
        let waiter = tokio::spawn({
            let pool = pool.clone();
            async move { any(&pool).await.is_some() }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(pool.queue().waiting(), 1);
        pool.publish(vec![worker()]).await;
        assert!(waiter.await.unwrap());
        assert_eq!((pool.queue().waiting(), pool.queue().refused()), (0, 0));
        assert_eq!(pool.queue().take_longest().as_secs(), 2);
        assert_eq!(pool.queue().take_longest(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_in_time_and_number() {
        let pool = Arc::new(queued(1, Duration::from_secs(5), None));
        let first = any(&pool);
        let second = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let began = Instant::now();
            assert!(any(&pool).await.is_none());
            assert_eq!(began.elapsed(), Duration::ZERO, "a full queue refuses at once");
        };
        let (first, ()) = tokio::join!(first, second);
        assert!(first.is_none());
        assert_eq!((pool.queue().waiting(), pool.queue().refused()), (0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_workers_that_will_not_come() {
        let pool = Arc::new(queued(10, Duration::from_secs(5), None));
        let close = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pool.queue().close();
        };
        let began = Instant::now();
        let (first, ()) = tokio::join!(any(&pool), close);
        assert!(first.is_none() && any(&pool).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_is_forgotten() {
        let pool = queued(1, Duration::from_secs(5), None);
        let left = tokio::time::timeout(Duration::from_secs(1), any(&pool)).await;
        assert!(left.is_err());
        assert_eq!(pool.queue().waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_worker_makes_others_wait_until_a_lease_ends() {
        let pool = queued(10, Duration::from_secs(5), Some(2));
        pool.publish(vec![worker()]).await;
        let (one, _two) = (any(&pool).await.unwrap(), any(&pool).await.unwrap());
        let release = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(one);
        };
        let (got, ()) = tokio::join!(any(&pool), release);
        assert!(got.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_at_a_stop_gets_a_worker_that_drains() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let pool = Arc::new(queued(10, Duration::from_secs(5), None));
        let closing = Arc::new(AtomicBool::new(false));
        let waiter = tokio::spawn({
            let (pool, closing) = (pool.clone(), closing.clone());
            async move {
                let none = HeaderMap::new();
                let plan = plan::plan(&Affinity::None, b"/", &none, None, true, false);
                acquire(&pool, &plan, &Tried::default(), || closing.load(Ordering::Relaxed)).await
            }
        });
        pool.publish(vec![Seat { open: false, ..worker() }]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pool.queue().waiting(), 1, "a cordoned worker gets nothing new");
        closing.store(true, Ordering::Relaxed);
        pool.publish(vec![Seat { open: false, ..worker() }]).await;
        assert!(waiter.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn who_found_every_worker_gone_gets_one_that_listens_again_at_its_place() {
        let path = std::env::temp_dir().join(format!("acquire-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let id = WorkerId { app: "app".into(), slot: Slot(0), incarnation: Incarnation(1) };
        let member = Arc::new(Member::new(id, None, path.to_str().unwrap().into()));
        let pool = queued(10, Duration::from_secs(20), None);
        pool.publish(vec![Seat { member: member.clone(), open: true }]).await;
        let none = HeaderMap::new();
        let plan = plan::plan(&Affinity::None, b"/", &none, None, true, false);
        let after = |fault| {
            let mut tried = Tried::default();
            tried.add(member.clone(), fault);
            tried
        };
        let (gone, died) = (after(WorkerFault::Unreachable), after(WorkerFault::Died));
        let listen = async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            tokio::net::UnixListener::bind(&path).unwrap()
        };
        let began = Instant::now();
        let (lease, _listener) = tokio::join!(acquire(&pool, &plan, &gone, || false), listen);
        assert!(lease.is_some() && began.elapsed() < Duration::from_secs(10));
        // The one that a request may have ended is not asked again.
        assert!(timeout(Duration::from_secs(1), acquire(&pool, &plan, &died, || false)).await.is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
