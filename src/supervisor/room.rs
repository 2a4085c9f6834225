//! One app: its fleet, and what the fleet need not know of its workers.

use super::definition::Definition;
use super::external::Entrance;
use super::restarts::Restarts;
use super::{AppStatus, Carried, SlotStatus, Waiting, WorkerStatus};
use crate::fleet::{self, Event, Fleet, Occupant, State, Time};
use crate::pool::{Member, Pool, Seat};
use crate::process::control::{Stats, Token};
use crate::process::output::{Rest, Stream, Tail};
use crate::process::usage::Usage;
use crate::process::{Exit, Group, Process};
use crate::worker::{Generation, Incarnation, Slot, Tag, WorkerId};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(super) struct Room {
    pub(super) name: Arc<str>,
    /// Not configured any more: goes when its workers have.
    pub(super) removed: bool,
    /// Of every generation that may have workers.
    pub(super) definitions: BTreeMap<Generation, Definition>,
    /// How the newest rollouts ended.
    pub(super) rollouts: BTreeMap<Generation, Result<String, String>>,
    pub(super) pool: Arc<Pool>,
    /// Pools of earlier configurations that traffic may still hold.
    pub(super) old_pools: Vec<Weak<Pool>>,
    pub(super) fleet: Fleet,
    pub(super) workers: HashMap<Incarnation, Entry>,
    /// The stderr of the last process of a slot that ended.
    pub(super) last_words: HashMap<Slot, Arc<[String]>>,
    pub(super) restarts: Restarts,
    /// Where external workers come in, while it runs.
    pub(super) entrance: Option<Entrance>,
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
    pub(super) stats: Option<Stats>,
    /// Where its Engine.IO serves, once it has said so.
    pub(super) engine: Option<Vec<String>>,
    /// Of Engine.IO, as it said last.
    pub(super) sessions: Option<u64>,
    /// The process that serves, which may be a descendant of the one that was started.
    pub(super) serving_pid: Option<u32>,
    pub(super) usage: Option<Usage>,
    /// Processors used in the last second.
    pub(super) cpu: Option<f64>,
    /// The last lines of its stderr.
    pub(super) tail: Arc<Tail>,
    /// Requests of members that are forgotten.
    pub(super) served: u64,
    /// The tasks that read its output.
    pub(super) readers: Vec<Reading>,
    /// Says true when its process is gone.
    pub(super) exited: Option<watch::Receiver<bool>>,
    /// What it proves itself with when it dials in, and the user it runs as.
    pub(super) token: Option<Token>,
    pub(super) uid: u32,
    /// Whether somebody else started it.
    pub(super) guest: bool,
    /// What lives of its process group although its process ended while no proxy watched.
    pub(super) remains: Option<Group>,
    /// Whether it was looked where it listens, as it did not say.
    pub(super) looked_at: bool,
}

/// The reader of one of its streams.
pub(super) struct Reading {
    pub(super) stream: Stream,
    pub(super) task: JoinHandle<(Option<Rest>, mpsc::Sender<()>)>,
}

impl Entry {
    pub(super) fn new(id: WorkerId, socket: PathBuf) -> Entry {
        Entry {
            id,
            tag: None,
            socket,
            process: None,
            members: Vec::new(),
            stats: None,
            engine: None,
            sessions: None,
            serving_pid: None,
            usage: None,
            cpu: None,
            tail: Arc::default(),
            served: 0,
            readers: Vec::new(),
            exited: None,
            token: None,
            uid: rustix::process::geteuid().as_raw(),
            guest: false,
            remains: None,
            looked_at: false,
        }
    }

    /// Its main server listens here now.
    pub(super) fn moved(&mut self, socket: Arc<str>) {
        let gone = |member: &Arc<Member>| load(member) == 0 && member.tunnels.open() == 0;
        let (gone, kept): (Vec<_>, Vec<_>) = self.members.drain(..).partition(gone);
        self.served += gone.iter().map(|member| member.load.total.load(Ordering::Relaxed)).sum::<u64>();
        self.members = kept;
        self.members.push(self.member_at(socket));
        self.tell_engine();
    }

    /// Lets traffic know of its Engine.IO: where it serves, and how many sessions it has.
    pub(super) fn tell_engine(&self) {
        for member in &self.members {
            if let Some(paths) = &self.engine {
                member.engine.set_paths(paths.clone());
            }
            if let Some(sessions) = self.sessions {
                member.engine.set_sessions(sessions);
            }
        }
    }

    pub(super) fn member_at(&self, socket: Arc<str>) -> Arc<Member> {
        Arc::new(Member::new(self.id.clone(), self.tag, socket).of_user(self.uid))
    }

    pub(super) fn member(&self) -> Option<&Arc<Member>> {
        self.members.last()
    }

    /// Requests since its start.
    pub(super) fn requests(&self) -> u64 {
        self.served + self.members.iter().map(|member| member.load.total.load(Ordering::Relaxed)).sum::<u64>()
    }

    /// What traffic has with it now.
    pub(super) fn carried(&self) -> fleet::Carried {
        let sum = |count: fn(&Member) -> u32| self.members.iter().map(|member| count(member)).sum();
        fleet::Carried {
            active: sum(|member| member.load.active.load(Ordering::Relaxed)),
            parked: sum(|member| member.load.parked.load(Ordering::Relaxed)),
            tunnels: sum(|member| u32::try_from(member.tunnels.open()).unwrap_or(u32::MAX)),
        }
    }

    /// Looks at what it uses; `passed` since the last look.
    pub(super) fn measure(&mut self, passed: std::time::Duration) -> fleet::Load {
        let pid = self.serving_pid.or(self.process.as_ref().map(Process::pid));
        let usage = pid.and_then(|pid| Usage::of(pid).ok());
        let seconds = passed.as_secs_f64().max(0.001);
        let used = |now: &Usage, then: &Usage| now.cpu.saturating_sub(then.cpu).as_secs_f64() / seconds;
        self.cpu = usage.as_ref().zip(self.usage.as_ref()).map(|(now, then)| used(now, then));
        self.usage = usage;
        fleet::Load {
            elu: self.stats.map(|stats| stats.elu),
            cpu: self.cpu,
            rss: usage.map(|usage| usage.rss).or(self.stats.map(|stats| stats.rss)),
            carried: self.carried(),
            sessions: self.stats.map_or(0, |stats| stats.sessions),
            requests: self.requests(),
        }
    }
}

fn load(member: &Member) -> u32 {
    member.load.active.load(Ordering::Relaxed) + member.load.parked.load(Ordering::Relaxed)
}

impl Room {
    pub(super) fn new(name: Arc<str>, definition: Definition, pool: Arc<Pool>, seed: u64, first: Incarnation) -> Room {
        let fleet = Fleet::new(name.clone(), definition.policy.clone(), seed, first.0);
        Room {
            definitions: BTreeMap::from([(fleet.generations().0, definition)]),
            fleet,
            name,
            removed: false,
            rollouts: BTreeMap::new(),
            pool,
            old_pools: Vec::new(),
            workers: HashMap::new(),
            last_words: HashMap::new(),
            restarts: Restarts::default(),
            entrance: None,
        }
    }

    /// Begins to replace every worker.
    pub(super) fn roll(&mut self, definition: Definition, now: Time) -> Generation {
        let generation = Generation(self.fleet.newest().0.saturating_add(1));
        let policy = Box::new(definition.policy.clone());
        self.definitions.insert(generation, definition);
        self.fleet.handle(Event::Roll { generation, policy }, now);
        generation
    }

    /// Takes note of a rollout's end.
    pub(super) fn rolled(&mut self, generation: Generation, outcome: Result<String, (Option<Slot>, String)>) {
        const KEPT: usize = 8;
        let outcome = match outcome {
            Ok(text) => Ok(format!("{}: {text}", self.name)),
            Err((slot, why)) => {
                let kept = self.fleet.generations().0;
                let why = self.why_failed(slot, &why);
                Err(format!("{}: generation {generation} was given up, generation {kept} goes on: {why}", self.name))
            }
        };
        self.rollouts.insert(generation, outcome);
        while self.rollouts.len() > KEPT {
            self.rollouts.pop_first();
        }
        self.definitions.retain(|generation, _| self.fleet.needs(*generation));
    }

    /// A reason with the slot and the last lines of stderr.
    pub(super) fn why_failed(&self, slot: Option<Slot>, why: &str) -> String {
        let Some(slot) = slot else { return why.to_owned() };
        let exit = self.fleet.slots().find(|(s, _)| *s == slot).and_then(|(_, seat)| seat.last_exit.clone());
        let exit =
            exit.filter(|exit| !why.contains(exit.as_str())).map(|exit| format!(" ({exit})")).unwrap_or_default();
        let mut text = format!("slot {slot}: {why}{exit}");
        if let Some(words) = self.last_words.get(&slot).filter(|words| !words.is_empty()) {
            text.push_str("; its last lines of stderr:");
            words.iter().for_each(|line| {
                text.push_str("\n  ");
                text.push_str(line);
            });
        }
        text
    }

    /// Slots whose last process failed.
    pub(super) fn failing(&self) -> Vec<Slot> {
        self.fleet.slots().filter(|(_, seat)| seat.due().is_some()).map(|(slot, _)| slot).collect()
    }

    pub(super) fn serving(&self) -> usize {
        self.fleet.workers().filter(|w| w.serves()).count()
    }

    /// A number that no worker of this room has had.
    pub(super) fn next_incarnation(room: &Room) -> u32 {
        room.fleet.next_incarnation()
    }

    /// Other traffic rules may come with another pool: both hold the same workers while anybody looks.
    pub(super) fn use_pool(&mut self, pool: Arc<Pool>) {
        if !Arc::ptr_eq(&self.pool, &pool) {
            let old = std::mem::replace(&mut self.pool, pool);
            self.old_pools.push(Arc::downgrade(&old));
            self.fleet.publish_again();
        }
    }

    /// Lets traffic know which workers do not answer any more.
    pub(super) fn tell_silence(&self) {
        for worker in self.fleet.workers() {
            let silent = matches!(worker.state, State::Unhealthy | State::Killing);
            let members = self.workers.get(&worker.incarnation).into_iter().flat_map(|entry| &entry.members);
            members.for_each(|member| member.silence.set(silent));
        }
    }

    pub(super) fn pools(&mut self) -> Vec<Arc<Pool>> {
        self.old_pools.retain(|pool| pool.strong_count() > 0);
        self.old_pools.iter().filter_map(Weak::upgrade).chain([self.pool.clone()]).collect()
    }

    /// The definition that a worker was started from.
    pub(super) fn definition_of(&self, incarnation: Incarnation) -> Option<&Definition> {
        let worker = self.fleet.workers().find(|w| w.incarnation == incarnation)?;
        self.definitions.get(&worker.generation)
    }

    /// What the pool should hold now. `expecting`: requests may still come while all workers are to end.
    pub(super) fn seats(&self, expecting: bool) -> Vec<Seat> {
        // There is nobody else for them.
        let stopping = expecting && self.fleet.is_stopping();
        let seat = |(incarnation, open)| {
            let member = self.workers.get(&incarnation)?.member()?.clone();
            Some(Seat { member, open: open || stopping })
        };
        self.fleet.seats().filter_map(seat).collect()
    }

    /// No worker will come for requests that wait.
    pub(super) fn is_closed(&self) -> bool {
        self.fleet.is_stopping() && self.fleet.seats().next().is_none()
    }

    pub(super) fn keep_last_words(&mut self, incarnation: Incarnation) {
        if let Some(entry) = self.workers.get(&incarnation) {
            self.last_words.insert(entry.id.slot, entry.tail.lines().into());
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
            None => {
                self.last_words.remove(&slot);
                self.restarts.spawn_failed(slot);
            }
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
                rss: entry.and_then(|entry| entry.usage).map(|usage| usage.rss),
                cpu: entry.and_then(|entry| entry.cpu),
                carried: Carried::new(entry.map(|entry| entry.members.clone()).unwrap_or_default()),
            }
        };
        let slot = |(slot, seat): (Slot, &crate::fleet::Seat)| SlotStatus {
            slot,
            failures: seat.failures,
            restarts: self.restarts.of(slot),
            last_exit: seat.last_exit.clone(),
            last_words: self.last_words.get(&slot).cloned().unwrap_or_default(),
            retry_at: seat.due(),
            is_failed: matches!(seat.occupant, Occupant::Failed { .. }),
        };
        let name = self.name.clone();
        let policy = self.fleet.policy();
        let (generation, rolling) = self.fleet.generations();
        AppStatus {
            name,
            generation,
            rolling,
            desired: self.fleet.desired(),
            range: (policy.instances, policy.most()),
            is_manual: self.fleet.is_manual(),
            is_external: self.fleet.is_external(),
            last_rollout: self.rollouts.last_key_value().map(|(g, outcome)| (*g, outcome.clone())),
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
