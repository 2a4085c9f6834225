//! What the front does with its connections, and how each of them learns it.
//!
//! A connection reads one atomic where it would wait anyway. A change of phase wakes every connection's task once; the
//! list of them is touched when a connection begins and when it ends, never by a request.

use super::parcel::Parcel;
use super::tunnel::Frozen;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

/// What becomes of the connections.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Everything is served.
    #[allow(dead_code)] // how it begins
    Open,
    /// The same, but each HTTP/1 answer asks its client to leave.
    Leaving,
    /// Idle connections end; a request whose first byte has come is served, and is its connection's last. HTTP/2
    /// connections get a GOAWAY. Tunnels go on.
    Closed,
    /// Another process takes over: tunnels, and HTTP/1 connections between two requests, are sent to it. Those over TLS
    /// and HTTP/2 end as in [`Phase::Closed`], and so does what nobody takes.
    Moving(mpsc::Sender<Parcel>),
}

const OPEN: u8 = 0;
const LEAVING: u8 = 1;
const CLOSED: u8 = 2;
const MOVING: u8 = 3;
const PHASE: u8 = 3;
/// Tunnels are to stop where they stand.
const FREEZE: u8 = 4;

/// What a connection is to do by the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Leaving,
    Closed,
    /// It is to be given away.
    Moves,
}

impl Standing {
    /// Its next answer is the last one.
    pub(super) fn ends(self) -> bool {
        matches!(self, Standing::Leaving | Standing::Closed)
    }
}

/// Read for every request, written hardly ever: nothing that is written often may share its cache line.
#[derive(Default)]
#[repr(align(64))]
struct Signal(AtomicU8);

const SHARDS: usize = 16;

/// What all connections of a front share.
pub(super) struct House {
    signal: Signal,
    open: Arc<AtomicUsize>,
    /// Tunnels that can be moved.
    movable: AtomicUsize,
    /// The connections' tasks; the lock is taken when one begins or ends.
    tasks: [Mutex<slab::Slab<Waker>>; SHARDS],
    next_shard: AtomicUsize,
    mover: Mutex<Option<mpsc::Sender<Parcel>>>,
    /// Where frozen tunnels gather, while they do.
    frozen: Mutex<Option<Vec<Frozen>>>,
    gathered: Notify,
    /// Pingora ends HTTP/2 connections by this.
    closing: watch::Sender<bool>,
}

/// Nothing panics while one of these locks is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Default for House {
    fn default() -> Self {
        House {
            signal: Signal::default(),
            open: Arc::default(),
            movable: AtomicUsize::new(0),
            tasks: Default::default(),
            next_shard: AtomicUsize::new(0),
            mover: Mutex::default(),
            frozen: Mutex::default(),
            gathered: Notify::new(),
            closing: watch::Sender::new(false),
        }
    }
}

impl House {
    /// Open client connections, tunnels among them.
    pub(super) fn open(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }

    /// Counts a connection in; `None` where `limit` are open already.
    pub(super) fn admit(self: &Arc<Self>, limit: usize) -> Option<Admission> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { house: self.clone(), key: None, movable: false, counted: false };
        (before < limit).then_some(admission)
    }

    /// What is served now is the last.
    pub(super) fn is_closing(&self) -> bool {
        self.signal.0.load(Ordering::Acquire) & PHASE == CLOSED
    }

    pub(super) fn enter(&self, phase: Phase) {
        let (bits, mover) = match phase {
            Phase::Open => (OPEN, None),
            Phase::Leaving => (LEAVING, None),
            Phase::Closed => (CLOSED, None),
            Phase::Moving(mover) => (MOVING, Some(mover)),
        };
        {
            // Two changes at once must not mix.
            let mut held = lock(&self.mover);
            *held = mover;
            let freezing = self.signal.0.load(Ordering::Relaxed) & FREEZE;
            self.signal.0.store(bits | freezing, Ordering::SeqCst);
            // Any notice ends an HTTP/2 connection, also one of `false`.
            self.closing.send_if_modified(|closing| std::mem::replace(closing, bits >= CLOSED) != (bits >= CLOSED));
        }
        self.wake();
    }

    /// Wakes every connection's task.
    fn wake(&self) {
        for shard in &self.tasks {
            lock(shard).iter().for_each(|(_, waker)| waker.wake_by_ref());
        }
    }

    /// Turns to true when HTTP/2 connections are to end.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        let mut closing = self.closing.subscribe();
        if *closing.borrow() {
            closing.mark_changed();
        }
        closing
    }

    fn set_freezing(&self, on: bool) {
        let _held = lock(&self.mover);
        let phase = self.signal.0.load(Ordering::Relaxed) & PHASE;
        self.signal.0.store(if on { phase | FREEZE } else { phase }, Ordering::SeqCst);
    }

    /// Asks every tunnel to stop where it stands; ends when all that can have done so, or at `limit`. What does not
    /// answer in time goes on. Dropping the future lets all go on.
    pub(super) async fn freeze(&self, limit: Duration) -> Vec<Frozen> {
        {
            let mut gathering = lock(&self.frozen);
            if gathering.is_some() {
                log::warn!("tunnels are being frozen already");
                return Vec::new();
            }
            *gathering = Some(Vec::new());
        }
        let gathering = Gathering(self);
        self.set_freezing(true);
        self.wake();
        let all = async {
            loop {
                let mut gathered = std::pin::pin!(self.gathered.notified());
                gathered.as_mut().enable();
                if self.movable.load(Ordering::SeqCst) == 0 {
                    return;
                }
                gathered.await;
            }
        };
        if timeout(limit, all).await.is_err() {
            log::warn!("{} tunnels did not stop in time and stay", self.movable.load(Ordering::SeqCst));
        }
        gathering.finish()
    }
}

/// While tunnels gather; dropped early, they go on.
struct Gathering<'a>(&'a House);

impl Gathering<'_> {
    fn finish(self) -> Vec<Frozen> {
        let frozen = self.end();
        std::mem::forget(self);
        frozen
    }

    fn end(&self) -> Vec<Frozen> {
        self.0.set_freezing(false);
        lock(&self.0.frozen).take().unwrap_or_default()
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.end().into_iter().for_each(Frozen::thaw);
    }
}

/// One open connection, counted until it ends.
pub(crate) struct Admission {
    house: Arc<House>,
    /// Its task's place in the house's list.
    key: Option<usize>,
    /// It can be given to another process.
    movable: bool,
    /// It is counted as a tunnel that can be moved.
    counted: bool,
}

impl Admission {
    pub(super) fn standing(&self) -> Standing {
        match self.house.signal.0.load(Ordering::Acquire) & PHASE {
            OPEN => Standing::Open,
            LEAVING => Standing::Leaving,
            MOVING if self.movable => Standing::Moves,
            _ => Standing::Closed,
        }
    }

    /// Tunnels stop or move: one look for both.
    pub(super) fn is_summoned(&self) -> bool {
        let signal = self.house.signal.0.load(Ordering::Acquire);
        signal >= MOVING && self.movable
    }

    pub(super) fn is_freezing(&self) -> bool {
        self.house.signal.0.load(Ordering::Acquire) & FREEZE != 0
    }

    /// Says which task a change of phase has to wake.
    pub(super) fn watch(&mut self, cx: &Context<'_>) {
        if self.key.is_none() {
            self.rewatch(cx);
        }
    }

    /// The same when the connection has gone over to another task.
    pub(super) fn rewatch(&mut self, cx: &Context<'_>) {
        self.unwatch();
        let shard = self.house.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.key = Some(lock(&self.house.tasks[shard]).insert(cx.waker().clone()) * SHARDS + shard);
    }

    fn unwatch(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.house.tasks[key % SHARDS]).try_remove(key / SHARDS);
        }
    }

    pub(super) fn set_movable(&mut self, movable: bool) {
        self.movable = movable;
    }

    /// From now on it is a tunnel that [`House::freeze`] waits for, if it can be moved at all.
    pub(super) fn count_tunnel(&mut self) {
        if self.movable && !self.counted {
            self.counted = true;
            self.house.movable.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// It stays in this process, whatever comes.
    pub(super) fn stay(&mut self) {
        self.movable = false;
        self.uncount_tunnel();
    }

    fn uncount_tunnel(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.house.one_less();
        }
    }

    /// Where connections are given to; `None` when they are not, or not any more.
    pub(super) fn mover(&self) -> Option<mpsc::Sender<Parcel>> {
        lock(&self.house.mover).clone()
    }

    pub(super) fn house(&self) -> &Arc<House> {
        &self.house
    }
}

impl House {
    /// Takes a frozen tunnel; gives it back when none are wanted any more.
    pub(super) fn gather(&self, mut frozen: Frozen) -> Result<(), Frozen> {
        let mut gathering = lock(&self.frozen);
        let Some(tunnels) = gathering.as_mut() else { return Err(frozen) };
        let counted = std::mem::take(&mut frozen.admission().counted);
        tunnels.push(frozen);
        drop(gathering);
        if counted {
            self.one_less();
        }
        Ok(())
    }

    fn one_less(&self) {
        if self.movable.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.gathered.notify_waiters();
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.unwatch();
        self.uncount_tunnel();
        self.house.open.fetch_sub(1, Ordering::Release);
    }
}
