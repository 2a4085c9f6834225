//! One app: its fleet, and what the fleet need not know of its workers.

use super::restarts::Restarts;
use super::{AppSpec, AppStatus, Carried, SlotStatus, Waiting, WorkerStatus};
use crate::fleet::{Fleet, Occupant, Time};
use crate::pool::{Member, Pool, Seat};
use crate::process::control::Stats;
use crate::process::output::Tail;
use crate::process::spec::Spec;
use crate::process::{Exit, Process};
use crate::worker::{Incarnation, Slot, Tag, WorkerId};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::task::JoinHandle;

pub(super) struct Room {
    pub(super) name: Arc<str>,
    pub(super) spec: Arc<Spec>,
    pub(super) wait_ready: bool,
    pub(super) pool: Arc<Pool>,
    pub(super) fleet: Fleet,
    pub(super) workers: HashMap<Incarnation, Entry>,
    /// The stderr of the newest process in a slot.
    tails: HashMap<Slot, Arc<Tail>>,
    /// The same of the last one that ended.
    last_words: HashMap<Slot, Arc<[String]>>,
    pub(super) restarts: Restarts,
}

/// One worker, beside what the fleet knows of it.
pub(super) struct Entry {
    pub(super) id: WorkerId,
    pub(super) tag: Option<Tag>,
    /// Where its main server is told to listen.
    pub(super) socket: PathBuf,
    pub(super) process: Option<Process>,
    /// As traffic knows it; older ones while they carry something. The last is the present one.
    pub(super) members: Vec<Arc<Member>>,
    /// How often in a row it was seen without a request.
    pub(super) idle: u32,
    pub(super) stats: Option<Stats>,
    /// The tasks that read its output.
    pub(super) readers: Vec<JoinHandle<()>>,
}

impl Entry {
    pub(super) fn new(id: WorkerId, socket: PathBuf) -> Entry {
        Entry { id, tag: None, socket, process: None, members: Vec::new(), idle: 0, stats: None, readers: Vec::new() }
    }

    /// Its main server listens here now.
    pub(super) fn moved(&mut self, socket: Arc<str>) {
        self.members.retain(|member| load(member) > 0);
        self.members.push(Arc::new(Member::new(self.id.clone(), self.tag, socket)));
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.members.last()
    }

    /// Requests in flight; waiting polls and open tunnels do not hold back a stop.
    pub(super) fn active(&self) -> u32 {
        self.members.iter().map(|member| member.load.active.load(Ordering::Relaxed)).sum()
    }
}

fn load(member: &Member) -> u32 {
    member.load.active.load(Ordering::Relaxed) + member.load.parked.load(Ordering::Relaxed)
}

impl Room {
    pub(super) fn new(app: AppSpec, seed: u64, first: Incarnation) -> Room {
        Room {
            wait_ready: app.policy.wait_ready,
            fleet: Fleet::new(app.name.clone(), app.policy, seed, first.0),
            name: app.name,
            spec: Arc::new(app.spec),
            pool: app.pool,
            workers: HashMap::new(),
            tails: HashMap::new(),
            last_words: HashMap::new(),
            restarts: Restarts::default(),
        }
    }

    /// What the pool should hold now.
    pub(super) fn seats(&self) -> Vec<Seat> {
        let seat = |(incarnation, open)| {
            let member = self.workers.get(&incarnation)?.member()?.clone();
            Some(Seat { member, open })
        };
        self.fleet.seats().filter_map(seat).collect()
    }

    pub(super) fn new_tail(&mut self, slot: Slot) -> Arc<Tail> {
        let tail = Arc::new(Tail::default());
        self.tails.insert(slot, tail.clone());
        tail
    }

    pub(super) fn keep_last_words(&mut self, incarnation: Incarnation) {
        if let Some(entry) = self.workers.get(&incarnation)
            && let Some(tail) = self.tails.get(&entry.id.slot)
        {
            self.last_words.insert(entry.id.slot, tail.lines().into());
        }
    }

    /// Takes note of how a process ended, before the fleet changes its state.
    pub(super) fn ended(&mut self, incarnation: Incarnation, exit: Option<Exit>) {
        let Some((slot, state)) =
            self.fleet.workers().find(|w| w.incarnation == incarnation && w.is_alive()).map(|w| (w.slot, w.state))
        else {
            return;
        };
        match exit {
            Some(exit) => self.restarts.ended(slot, state, exit),
            None => self.restarts.spawn_failed(slot),
        }
    }

    pub(super) fn status(&self) -> AppStatus {
        let worker = |worker: &crate::fleet::Worker| {
            let entry = self.workers.get(&worker.incarnation);
            WorkerStatus {
                slot: worker.slot,
                incarnation: worker.incarnation,
                generation: worker.generation,
                pid: worker.pid,
                state: worker.state,
                reason: worker.reason.clone(),
                since: worker.since,
                socket: entry.and_then(Entry::member).map(|member| member.socket.clone()),
                stats: entry.and_then(|entry| entry.stats),
                carried: Carried::new(entry.map(|entry| entry.members.clone()).unwrap_or_default()),
            }
        };
        let slot = |(slot, seat): (Slot, &crate::fleet::Seat)| SlotStatus {
            slot,
            failures: seat.failures,
            restarts: self.restarts.of(slot),
            last_exit: seat.last_exit.clone(),
            last_words: self.last_words.get(&slot).cloned().unwrap_or_default(),
            retry_at: match seat.occupant {
                Occupant::BackingOff { until } => Some(until),
                _ => None,
            },
        };
        let name = self.name.clone();
        AppStatus {
            name,
            workers: self.fleet.workers().map(worker).collect(),
            slots: self.fleet.slots().map(slot).collect(),
            restarts: self.restarts.by_cause(),
            queue: Waiting::new(self.pool.clone()),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.fleet.next_deadline()
    }
}
