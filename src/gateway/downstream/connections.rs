//! The registry of open client connections, and how each of them learns what becomes of it.
//!
//! A connection reads one atomic where it would wait anyway. A change of phase wakes every connection's task once; the
//! list of them is touched when a connection begins and when it ends, never by a request.

use super::clients::ClientAccounts;
use crate::gateway::descriptors::{Descriptors, PER_CONNECTION, Taken};
use crate::gateway::places::{Extra, Place};
use crate::process::ConnectionTransfer;
use crate::worker::counted;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// What becomes of the connections.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Everything is served.
    #[allow(dead_code)] // The state at the start.
    Serving,
    /// The same, but each HTTP/1 answer asks its client to leave.
    KeepAliveOff,
    /// Idle connections end; a request whose first byte has come is served, and is its connection's last. HTTP/2
    /// connections get a GOAWAY. Tunnels go on.
    Draining,
    /// Another process takes over: tunnels, and HTTP/1 connections between two requests, are sent to it. HTTP/2 ends as in
    /// [`Phase::Draining`]. What else cannot move, as connections over TLS, is asked to leave first
    /// ([`Phase::KeepAliveOff`]), and ends so after [`ConnectionRegistry::end_what_stays`], as does what nobody takes. Tunnels
    /// over TLS 1.2 stay.
    Migrating(mpsc::Sender<ConnectionTransfer>),
}

const SERVING: u8 = 0;
const KEEP_ALIVE_OFF: u8 = 1;
const DRAINING: u8 = 2;
const MIGRATING: u8 = 3;
const PHASE: u8 = 3;
/// Tunnels are to stop where they stand.
const PAUSE: u8 = 4;
/// While others move: what cannot has been asked to leave, and ends now.
const LEAVE: u8 = 8;

/// What a connection is to do by the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Directive {
    Serve,
    /// Its next answer is the last one.
    KeepAliveOff,
    /// An idle connection ends; a request that has begun is the last.
    Drain,
    /// It is to be given to another process.
    Migrate,
}

impl Directive {
    /// Its next answer is the last one.
    pub(in crate::gateway) fn ends(self) -> bool {
        matches!(self, Directive::KeepAliveOff | Directive::Drain)
    }
}

/// Read for every request, written hardly ever: nothing that is written often may share its cache line.
#[derive(Default)]
#[repr(align(64))]
struct Signal(AtomicU8);

const SHARDS: usize = 16;
/// From so many connections in all on, one address may have its share only.
const DIVIDED: usize = 64;

/// A tunnel between two steps: nothing is read from either side, nothing written. It still counts as open, and its
/// worker as in use. Dropping it closes this process's descriptors and says nothing to either side, so it is no end
/// for a tunnel that goes on elsewhere.
pub(crate) trait Paused: Send + Sync + 'static {
    fn guard(&mut self) -> &mut ConnectionGuard;
    /// It goes on here as if nothing had happened.
    fn resume(self: Box<Self>);
    /// All of it as bytes, and the descriptors of the client's and the worker's connection.
    fn to_transfer(&self) -> (Zeroizing<Vec<u8>>, Vec<BorrowedFd<'_>>);
}

/// What all connections of a service share.
pub(in crate::gateway) struct ConnectionRegistry {
    signal: Signal,
    open: Arc<AtomicUsize>,
    descriptors: Arc<Descriptors>,
    clients: ClientAccounts,
    /// Tunnels that can be moved.
    movable: AtomicUsize,
    /// The connections' tasks; the lock is taken when one begins or ends.
    tasks: [Mutex<slab::Slab<Waker>>; SHARDS],
    next_shard: AtomicUsize,
    mover: Mutex<Option<mpsc::Sender<ConnectionTransfer>>>,
    /// Who takes over takes tunnels over TLS, too.
    takes_tls: AtomicBool,
    /// Where paused connections gather, while they do.
    paused: Mutex<Option<Vec<Box<dyn Paused>>>>,
    gathered: Notify,
    /// Pingora ends HTTP/2 connections by this.
    closing: watch::Sender<bool>,
}

/// Nothing panics while one of these locks is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl ConnectionRegistry {
    pub(in crate::gateway) fn new(descriptors: Arc<Descriptors>) -> Arc<Self> {
        Arc::new(ConnectionRegistry {
            signal: Signal::default(),
            open: Arc::default(),
            descriptors,
            clients: ClientAccounts::new(),
            movable: AtomicUsize::new(0),
            tasks: Default::default(),
            next_shard: AtomicUsize::new(0),
            mover: Mutex::default(),
            takes_tls: AtomicBool::new(true),
            paused: Mutex::default(),
            gathered: Notify::new(),
            closing: watch::Sender::new(false),
        })
    }
}

impl ConnectionRegistry {
    /// Open client connections, tunnels among them.
    pub(in crate::gateway) fn open(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }

    pub(in crate::gateway) fn descriptors(&self) -> &Arc<Descriptors> {
        &self.descriptors
    }

    pub(in crate::gateway) fn clients(&self) -> &ClientAccounts {
        &self.clients
    }

    /// How many more connections there is room for by `limit` and the descriptors.
    pub(in crate::gateway) fn free(&self, limit: usize) -> usize {
        let most = limit.min(self.descriptors.limit() / PER_CONNECTION);
        // So few are not divided: one browser opens six connections.
        if most < DIVIDED { usize::MAX } else { most.saturating_sub(self.open.load(Ordering::Relaxed)) }
    }

    /// Counts a connection in; `None` where `limit` are open already, or no descriptors are left.
    pub(in crate::gateway) fn register(self: &Arc<Self>, limit: usize) -> Option<ConnectionGuard> {
        if self.open.load(Ordering::Relaxed) >= limit {
            return None;
        }
        let taken = self.descriptors.take(PER_CONNECTION)?;
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let guard = self.guard(taken);
        (before < limit).then_some(guard)
    }

    /// Counts a connection in that another process has had open, beyond every limit.
    pub(in crate::gateway) fn register_adopted(self: &Arc<Self>) -> ConnectionGuard {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.guard(self.descriptors.take_anyway(PER_CONNECTION))
    }

    fn guard(self: &Arc<Self>, taken: Taken) -> ConnectionGuard {
        ConnectionGuard {
            registry: self.clone(),
            key: None,
            movable: false,
            counted: false,
            client: None,
            _taken: taken,
        }
    }

    /// Counts one more request of an HTTP/2 connection in that has one already. A quarter of all is for connections:
    /// nobody can take every place by streams.
    pub(in crate::gateway) fn register_stream(self: &Arc<Self>, limit: usize) -> Option<StreamGuard> {
        let limit = limit - limit / 4;
        if self.open.load(Ordering::Relaxed) >= limit
            || self.descriptors.used() >= self.descriptors.limit() - self.descriptors.limit() / 4
        {
            return None;
        }
        let taken = self.descriptors.take(1)?;
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let guard = StreamGuard { registry: self.clone(), of_client: None, _taken: taken };
        (before < limit).then_some(guard)
    }

    /// What is served now is the last.
    pub(in crate::gateway) fn is_draining(&self) -> bool {
        self.signal.0.load(Ordering::Acquire) & PHASE == DRAINING
    }

    pub(in crate::gateway) fn set_phase(&self, phase: Phase) {
        let (bits, mover) = match phase {
            Phase::Serving => (SERVING, None),
            Phase::KeepAliveOff => (KEEP_ALIVE_OFF, None),
            Phase::Draining => (DRAINING, None),
            Phase::Migrating(mover) => (MIGRATING, Some(mover)),
        };
        {
            // Two changes at once must not mix.
            let mut held = lock(&self.mover);
            *held = mover;
            let pausing = self.signal.0.load(Ordering::Relaxed) & PAUSE;
            self.signal.0.store(bits | pausing, Ordering::SeqCst);
            // Any notice ends an HTTP/2 connection, also one of `false`.
            self.closing.send_if_modified(|closing| std::mem::replace(closing, bits >= DRAINING) != (bits >= DRAINING));
        }
        self.wake();
    }

    /// Wakes every connection's task.
    fn wake(&self) {
        for shard in &self.tasks {
            lock(shard).iter().for_each(|(_, waker)| waker.wake_by_ref());
        }
    }

    /// Says whether whoever takes over takes tunnels over TLS, too. Those stay if not.
    pub(in crate::gateway) fn set_takes_tls(&self, takes: bool) {
        self.takes_tls.store(takes, Ordering::SeqCst);
    }

    pub(in crate::gateway) fn takes_tls(&self) -> bool {
        self.takes_tls.load(Ordering::SeqCst)
    }

    /// Turns to true when HTTP/2 connections are to end.
    pub(in crate::gateway) fn closing(&self) -> watch::Receiver<bool> {
        let mut closing = self.closing.subscribe();
        if *closing.borrow() {
            closing.mark_changed();
        }
        closing
    }

    fn set_pausing(&self, on: bool) {
        let _held = lock(&self.mover);
        let others = self.signal.0.load(Ordering::Relaxed) & !PAUSE;
        self.signal.0.store(if on { others | PAUSE } else { others }, Ordering::SeqCst);
    }

    /// Ends what cannot move and is idle, while the rest does.
    pub(in crate::gateway) fn end_what_stays(&self) {
        {
            let _held = lock(&self.mover);
            let signal = self.signal.0.load(Ordering::Relaxed);
            if signal & PHASE == MIGRATING {
                self.signal.0.store(signal | LEAVE, Ordering::SeqCst);
            }
        }
        self.wake();
    }

    /// Asks every tunnel to stop where it stands; ends when all that can have done so, or at `limit`. What does not
    /// answer in time goes on. Dropping the future lets all go on.
    pub(in crate::gateway) async fn pause(&self, limit: Duration) -> Vec<Box<dyn Paused>> {
        {
            let mut gathering = lock(&self.paused);
            if gathering.is_some() {
                log::warn!("tunnels are being paused already");
                return Vec::new();
            }
            *gathering = Some(Vec::new());
        }
        let gathering = Gathering(self);
        self.set_pausing(true);
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
            let stay = counted(self.movable.load(Ordering::SeqCst) as u64, "tunnel");
            log::warn!("{stay} did not stop in time and stay here");
        }
        gathering.finish()
    }
}

/// While tunnels gather; dropped early, they go on.
struct Gathering<'a>(&'a ConnectionRegistry);

impl Gathering<'_> {
    fn finish(self) -> Vec<Box<dyn Paused>> {
        let paused = self.end();
        std::mem::forget(self);
        paused
    }

    fn end(&self) -> Vec<Box<dyn Paused>> {
        self.0.set_pausing(false);
        lock(&self.0.paused).take().unwrap_or_default()
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.end().into_iter().for_each(|paused| paused.resume());
    }
}

/// One open connection, counted until it ends.
pub(crate) struct ConnectionGuard {
    registry: Arc<ConnectionRegistry>,
    /// Its task's place in the registry's list.
    key: Option<usize>,
    /// It can be given to another process.
    movable: bool,
    /// It is counted as a tunnel that can be moved.
    counted: bool,
    /// Its place among those of its client's address.
    client: Option<Place>,
    _taken: Taken,
}

/// One more request in flight on an HTTP/2 connection, counted until it ends.
pub(in crate::gateway) struct StreamGuard {
    registry: Arc<ConnectionRegistry>,
    of_client: Option<Extra>,
    _taken: Taken,
}

impl StreamGuard {
    /// It counts for its client's address, too.
    pub(in crate::gateway) fn of_client(mut self, extra: Option<Extra>) -> StreamGuard {
        self.of_client = extra;
        self
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.registry.open.fetch_sub(1, Ordering::Release);
    }
}

impl ConnectionGuard {
    /// From now on it counts for a client's address.
    pub(in crate::gateway) fn hold(&mut self, place: Option<Place>) {
        if place.is_some() {
            self.client = place;
        }
    }

    pub(in crate::gateway) fn client(&self) -> Option<&Place> {
        self.client.as_ref()
    }

    pub(in crate::gateway) fn directive(&self) -> Directive {
        let signal = self.registry.signal.0.load(Ordering::Acquire);
        match signal & PHASE {
            SERVING => Directive::Serve,
            KEEP_ALIVE_OFF => Directive::KeepAliveOff,
            MIGRATING if self.movable => Directive::Migrate,
            MIGRATING if signal & LEAVE == 0 => Directive::KeepAliveOff,
            _ => Directive::Drain,
        }
    }

    /// A connection of HTTP/2 takes no more requests: a GOAWAY says so in time.
    pub(in crate::gateway) fn must_go_away(&self) -> bool {
        self.registry.signal.0.load(Ordering::Acquire) & PHASE >= DRAINING
    }

    /// Tunnels stop or move: one look for both.
    pub(in crate::gateway) fn must_yield(&self) -> bool {
        let signal = self.registry.signal.0.load(Ordering::Acquire);
        signal >= MIGRATING && self.movable
    }

    pub(in crate::gateway) fn is_pausing(&self) -> bool {
        self.registry.signal.0.load(Ordering::Acquire) & PAUSE != 0
    }

    /// Says which task a change of phase has to wake.
    pub(in crate::gateway) fn watch(&mut self, cx: &Context<'_>) {
        if self.key.is_none() {
            self.rewatch(cx);
        }
    }

    /// The same when the connection has gone over to another task.
    pub(in crate::gateway) fn rewatch(&mut self, cx: &Context<'_>) {
        self.unwatch();
        let shard = self.registry.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.key = Some(lock(&self.registry.tasks[shard]).insert(cx.waker().clone()) * SHARDS + shard);
    }

    fn unwatch(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.registry.tasks[key % SHARDS]).try_remove(key / SHARDS);
        }
    }

    pub(in crate::gateway) fn set_movable(&mut self, movable: bool) {
        self.movable = movable;
    }

    /// From now on it is a tunnel that [`ConnectionRegistry::pause`] waits for, if it can be moved at all.
    pub(in crate::gateway) fn count_tunnel(&mut self) {
        if self.movable && !self.counted {
            self.counted = true;
            self.registry.movable.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// It stays in this process, whatever comes.
    pub(in crate::gateway) fn stay(&mut self) {
        self.movable = false;
        self.uncount_tunnel();
    }

    fn uncount_tunnel(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.registry.one_less();
        }
    }

    /// Where connections are given to; `None` when they are not, or not any more.
    pub(in crate::gateway) fn mover(&self) -> Option<mpsc::Sender<ConnectionTransfer>> {
        lock(&self.registry.mover).clone()
    }

    pub(in crate::gateway) fn registry(&self) -> &Arc<ConnectionRegistry> {
        &self.registry
    }
}

impl ConnectionRegistry {
    /// Takes a paused tunnel; gives it back when none are wanted any more.
    pub(in crate::gateway) fn gather<P: Paused>(&self, mut paused: Box<P>) -> Result<(), Box<P>> {
        let mut gathering = lock(&self.paused);
        let Some(tunnels) = gathering.as_mut() else { return Err(paused) };
        let counted = std::mem::take(&mut paused.guard().counted);
        tunnels.push(paused);
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

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.unwatch();
        self.uncount_tunnel();
        self.registry.open.fetch_sub(1, Ordering::Release);
    }
}
