//! The routable workers of an app and what each carries now. Written by the supervisor, read by
//! traffic; no I/O, and no lock on the path of a request, but for a moment in [`Numbers`].

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

pub(crate) mod affinity;
mod engine;
mod lease;
mod numbers;
mod pinned;
mod queue;
mod room;
mod selector;
#[cfg(test)]
mod tests;
mod tunnels;

pub(crate) use engine::Engine;
pub(crate) use lease::{Lease, Use};
pub(crate) use numbers::Numbers;
pub(crate) use pinned::Pinned;
pub(crate) use queue::{Queue, QueuePolicy};
pub(crate) use room::{Led, Room};
pub(crate) use tunnels::{Closing, Tunnels};

use crate::worker::{Generation, Tag, WorkerId};
use affinity::{Affinity, Balance};
use arc_swap::ArcSwap;
use pingora_load_balancing::{Backends, LoadBalancer};
use selector::{PoolDiscovery, Rendezvous};
use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A worker as traffic sees it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: WorkerId,
    /// What its sids end with; `None` for workers without the preload script.
    pub(crate) tag: Option<Tag>,
    /// Absolute path of its Unix socket.
    pub(crate) socket: Arc<str>,
    /// What was found at that path last.
    pub(crate) pinned: Pinned,
    /// The user whose process must listen there: our own, unless [`Member::of_user`] says another.
    pub(crate) user: u32,
    /// What it was deployed with; 0 while nobody has said so.
    generation: AtomicU32,
    pub(crate) load: Load,
    pub(crate) tunnels: Tunnels,
    pub(crate) silence: Silence,
    pub(crate) engine: Engine,
    /// Whether a pool has it.
    seated: AtomicBool,
    /// What traffic keeps with the worker: its idle connections.
    pub(crate) kept: OnceLock<Box<dyn Kept>>,
    /// Of the connections with HTTP/2 that Pingora keeps.
    pub(crate) numbers: Numbers,
}

/// What traffic keeps for a worker's next requests. It goes when the worker leaves the pool, which it may outlive.
pub(crate) trait Kept: Any + fmt::Debug + Send + Sync {
    fn clear(&self);
}

impl Member {
    pub(crate) fn new(id: WorkerId, tag: Option<Tag>, socket: Arc<str>) -> Member {
        Member {
            id,
            tag,
            socket,
            pinned: Pinned::default(),
            user: rustix::process::geteuid().as_raw(),
            generation: AtomicU32::new(0),
            load: Load::default(),
            tunnels: Tunnels::default(),
            silence: Silence::default(),
            engine: Engine::default(),
            seated: AtomicBool::new(false),
            kept: OnceLock::new(),
            numbers: Numbers::default(),
        }
    }

    /// Whether more requests may come. Whoever keeps something looks afterwards: then either this is seen
    /// to be false, or [`Kept::clear`] sees what was kept.
    pub(crate) fn is_seated(&self) -> bool {
        self.seated.load(Ordering::SeqCst)
    }

    fn leave(&self) {
        self.seated.store(false, Ordering::SeqCst);
        self.kept.get().into_iter().for_each(|kept| kept.clear());
    }

    pub(crate) fn of_user(self, user: u32) -> Member {
        Member { user, ..self }
    }

    pub(crate) fn set_generation(&self, generation: Generation) {
        self.generation.store(generation.0, Ordering::Relaxed);
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }
}

/// Whether a worker has stopped answering. Requests that wait for it and may be repeated need not wait
/// until it is killed.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    silent: AtomicBool,
    fell: tokio::sync::Notify,
}

impl Silence {
    pub(crate) fn set(&self, silent: bool) {
        if silent != self.silent.swap(silent, Ordering::AcqRel) && silent {
            self.fell.notify_waiters();
        }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Ends when the worker stops answering; at once if it already has.
    #[cfg(test)]
    pub(crate) async fn fallen(&self) {
        let mut fell = std::pin::pin!(self.fell.notified());
        // Before the look, or a fall in between is missed.
        fell.as_mut().enable();
        if !self.is_silent() {
            fell.await;
        }
    }
}

/// What a worker carries now.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Requests in flight, without the parked ones.
    pub(crate) active: AtomicU32,
    /// Waiting Engine.IO polls and open tunnels: they cost a worker next to nothing.
    pub(crate) parked: AtomicU32,
    /// Requests and tunnels since the beginning.
    pub(crate) total: AtomicU64,
}

/// A member's place in a published pool.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) member: Arc<Member>,
    /// Takes new sessions; a cordoned worker only keeps those it has.
    pub(crate) open: bool,
}

/// What a request asks of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// Any worker: the request stands alone.
    Any,
    /// The worker on which a new session may begin.
    NewSession,
    /// The worker that owns this Engine.IO session id, asked for on this path.
    Sid { sid: &'a [u8], path: &'a [u8] },
    /// The worker that this key leads to.
    Key(&'a [u8]),
    /// The worker on which this room is.
    Room(Room),
}

/// How an app's requests are led to its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) affinity: Affinity,
    pub(crate) balance: Balance,
    pub(crate) queue: QueuePolicy,
}

struct Snapshot {
    seats: Vec<Seat>,
}

/// Whether a request with a session's id gets what only that session's own requests get.
fn is_privileged(owner: &Member, is_learnt: bool, path: &[u8]) -> bool {
    let carried = owner.load.active.load(Ordering::Relaxed) + owner.load.parked.load(Ordering::Relaxed);
    is_learnt || (owner.engine.serves(path) && u64::from(carried) < owner.engine.most())
}

/// The routable workers of one app.
pub(crate) struct Pool {
    pub(crate) app: Arc<str>,
    settings: ArcSwap<Settings>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    /// Open workers by consistent hash.
    by_hash: LoadBalancer<Rendezvous>,
    /// Owners of sids that carry no tag, learnt from handshake answers. Bounded; the least used go.
    learnt: quick_cache::sync::Cache<Box<[u8]>, WorkerId>,
    has_learnt: AtomicBool,
    queue: Arc<Queue>,
    /// Where the next scan begins, so that ties and round robin go around.
    cursor: AtomicU32,
}

impl Pool {
    /// How many sids without a tag are remembered per app.
    pub(crate) const LEARNT: usize = 200_000;

    pub(crate) fn new(app: Arc<str>, affinity: Affinity, balance: Balance, queue_policy: QueuePolicy) -> Pool {
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot { seats: Vec::new() }));
        let backends = Backends::new(Box::new(PoolDiscovery(snapshot.clone())));
        Pool {
            app,
            settings: ArcSwap::from_pointee(Settings { affinity, balance, queue: queue_policy }),
            snapshot,
            by_hash: LoadBalancer::from_backends(backends),
            learnt: quick_cache::sync::Cache::with_weighter(1024, Self::LEARNT as u64, quick_cache::UnitWeighter),
            has_learnt: AtomicBool::new(false),
            queue: Arc::default(),
            cursor: AtomicU32::new(0),
        }
    }

    /// Replaces the routable workers. Leases on workers that are left out live on.
    pub(crate) async fn publish(&self, seats: Vec<Seat>) {
        seats.iter().for_each(|seat| seat.member.seated.store(true, Ordering::SeqCst));
        let new = Arc::new(Snapshot { seats });
        let old = self.snapshot.swap(new.clone());
        let stays = |member: &Arc<Member>| new.seats.iter().any(|seat| Arc::ptr_eq(&seat.member, member));
        old.seats.iter().filter(|seat| !stays(&seat.member)).for_each(|seat| seat.member.leave());
        // Discovery reads the snapshot and cannot fail.
        let _ = self.by_hash.update().await;
        self.close_moved();
        self.queue.wake.notify_waiters();
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// How many more requests open workers take; `None` where each takes any number.
    pub(crate) fn free(&self) -> Option<usize> {
        let max = self.settings.load().queue.max_concurrency?;
        let snapshot = self.snapshot.load();
        let open = snapshot.seats.iter().filter(|seat| seat.open);
        let free = |seat: &Seat| max.saturating_sub(seat.member.load.active.load(Ordering::Relaxed)) as usize;
        Some(open.map(free).sum())
    }

    /// From the next request on.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.queue.wake.notify_waiters();
    }

    /// Picks a worker, or `None` when no worker may take this. `avoid` are workers that were tried.
    pub(crate) fn select(&self, wanted: Wanted<'_>, usage: Use, avoid: &[Arc<Member>]) -> Option<Lease> {
        let led = if let Wanted::Room(room) = wanted { Some(room.led_now()) } else { None };
        let snapshot = self.snapshot.load();
        let settings = self.settings.load();
        let max = settings.queue.max_concurrency;
        let has_room = |member: &Member| max.is_none_or(|max| member.load.active.load(Ordering::Relaxed) < max);
        // What asks for no session of its own is a request, whatever it calls itself, but for a tunnel.
        let counts = usage == Use::Request || matches!(wanted, Wanted::Sid { .. });
        let tried = |member: &Arc<Member>| avoid.iter().any(|one| Arc::ptr_eq(one, member));
        let usable = |member: &Arc<Member>| !tried(member) && (!counts || has_room(member));
        let (member, usage) = match wanted {
            Wanted::Any => (self.balanced(&snapshot, settings.balance, &usable, |load| (load.0, load.1)), usage),
            Wanted::NewSession => {
                let rank = |load: (u32, u32)| (load.0 + load.1, load.0);
                let member = self.balanced(&snapshot, settings.balance, &usable, rank);
                member.iter().for_each(|member| member.engine.note_handshake());
                (member, usage)
            }
            Wanted::Key(key) => (self.hashed(key, &usable), usage),
            // Who finds its worker full waits: elsewhere it would be alone.
            Wanted::Room(room) => (self.host(room, &|host| !tried(host)).filter(usable), usage),
            Wanted::Sid { sid, path } => match self.owner(&snapshot, sid).filter(|(owner, _)| !tried(owner)) {
                // A session's own requests are never held back: its owner alone can serve them.
                Some((owner, is_learnt)) if is_privileged(owner, is_learnt, path) => (Some(owner.clone()), usage),
                Some((owner, _)) => (has_room(owner).then(|| owner.clone()), Use::Request),
                None => (self.hashed(sid, &usable), Use::Request),
            },
        };
        let queue = max.filter(|_| usage == Use::Request).map(|_| self.queue.clone());
        member.map(|member| Lease::new(member, usage, queue).of_room(led))
    }

    /// Picks among all workers that are left, cordoned ones too: for the last requests before they end.
    pub(crate) fn select_last(&self, usage: Use, avoid: &[Arc<Member>]) -> Option<Lease> {
        let snapshot = self.snapshot.load();
        let left = snapshot.seats.iter().map(|seat| &seat.member);
        let usable = left.filter(|member| !avoid.iter().any(|a| Arc::ptr_eq(a, member)));
        let member = usable.min_by_key(|member| member.load.active.load(Ordering::Relaxed))?;
        Some(Lease::new(member.clone(), usage, None))
    }

    /// A worker by its name, cordoned or not.
    pub(crate) fn member(&self, id: &WorkerId) -> Option<Arc<Member>> {
        self.snapshot.load().seats.iter().map(|seat| &seat.member).find(|member| member.id == *id).cloned()
    }

    /// Remembers which worker answered a handshake with this sid, unless the sid says so itself.
    pub(crate) fn learn(&self, sid: &[u8], owner: &Member) {
        let tag = Tag::of_sid(sid);
        if owner.tag.is_some() && tag == owner.tag {
            return;
        }
        // A page that shows a text of its client's would else name another worker's sessions its own.
        let snapshot = self.snapshot.load();
        let names = |member: &Member| member.tag == tag && member.engine.tags_sessions();
        if tag.is_some() && snapshot.seats.iter().any(|seat| names(&seat.member)) {
            return;
        }
        self.learnt.insert(sid.into(), owner.id.clone());
        self.has_learnt.store(true, Ordering::Release);
    }

    /// Every worker that may get requests, cordoned ones too.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.snapshot.load().seats.iter().map(|seat| seat.member.clone()).collect()
    }

    /// Up to `most` of the sids that were learnt, with their owners: for a successor.
    pub(crate) fn learnt(&self, most: usize) -> Vec<(Box<[u8]>, WorkerId)> {
        match self.has_learnt.load(Ordering::Acquire) {
            true => self.learnt.iter().take(most).collect(),
            false => Vec::new(),
        }
    }

    pub(crate) fn has_learnt(&self) -> bool {
        self.has_learnt.load(Ordering::Acquire)
    }

    /// What another proxy has learnt.
    pub(crate) fn learn_again(&self, sid: &[u8], owner: WorkerId) {
        self.learnt.insert(sid.into(), owner);
        self.has_learnt.store(true, Ordering::Release);
    }

    /// The worker that owns a sid, cordoned or not, and whether that was learnt. What was learnt goes first: an untagged sid
    /// may end like another worker's tag by chance.
    fn owner<'s>(&self, snapshot: &'s Snapshot, sid: &[u8]) -> Option<(&'s Arc<Member>, bool)> {
        let members = || snapshot.seats.iter().map(|seat| &seat.member);
        if self.has_learnt.load(Ordering::Acquire)
            && let Some(id) = self.learnt.get(sid)
        {
            return members().find(|member| member.id == id).map(|member| (member, true));
        }
        let tag = Tag::of_sid(sid)?;
        members().find(|member| member.tag == Some(tag)).map(|member| (member, false))
    }

    fn hashed(&self, key: &[u8], usable: &impl Fn(&Arc<Member>) -> bool) -> Option<Arc<Member>> {
        let of = |backend: &pingora_load_balancing::Backend| backend.ext.get::<Arc<Member>>().cloned();
        let accept =
            |backend: &pingora_load_balancing::Backend, healthy| healthy && of(backend).is_some_and(|m| usable(&m));
        self.by_hash.select_with(key, usize::MAX, accept).and_then(|backend| of(&backend))
    }

    fn balanced<R: Ord>(
        &self,
        snapshot: &Snapshot,
        balance: Balance,
        usable: &impl Fn(&Arc<Member>) -> bool,
        rank: impl Fn((u32, u32)) -> R,
    ) -> Option<Arc<Member>> {
        let seats = &snapshot.seats;
        let start = self.cursor.fetch_add(1, Ordering::Relaxed) as usize % seats.len().max(1);
        let (before, after) = seats.split_at(start.min(seats.len()));
        let mut around = after.iter().chain(before).filter(|seat| seat.open && usable(&seat.member));
        // Silence keeps new requests away as long as there is another worker.
        let is_silent = |seat: &&Seat| seat.member.silence.is_silent();
        let seat = match balance {
            Balance::RoundRobin => around.clone().find(|seat| !is_silent(seat)).or_else(|| around.next()),
            // The first of equals wins, and the scan begins elsewhere each time.
            Balance::LeastLoaded => around.min_by_key(|seat| {
                let load = &seat.member.load;
                (is_silent(seat), rank((load.active.load(Ordering::Relaxed), load.parked.load(Ordering::Relaxed))))
            }),
        };
        seat.map(|seat| seat.member.clone())
    }
}
