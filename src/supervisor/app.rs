//! One app: its fleet, and what the fleet need not know of its workers.

use super::definition::{Compare, Definition};
use super::external::ExternalListener;
use super::restarts::Restarts;
use super::status::{AppStatus, Carried, SlotStatus, Waiting, WorkerStatus};
use super::worker_record::WorkerRecord;
use crate::fleet::{Event, Fleet, Occupant, State, Time};
use crate::pool::{Pool, Seat};
use crate::process::cause;
use crate::process::control::{Join, Registry};
use crate::process::port_taken;
use crate::process::spec::External;
use crate::process::{Error, Exit};
use crate::worker::{Generation, Incarnation, Slot};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use tokio::sync::mpsc;

/// Lines that explain an end whose cause is not seen.
const LAST_LINES: usize = 12;

pub(super) struct ManagedApp {
    pub(super) name: Arc<str>,
    /// Not configured any more: dropped when its workers are gone.
    pub(super) removed: bool,
    /// Of every generation that may have workers.
    pub(super) definitions: BTreeMap<Generation, Definition>,
    /// How the newest rollouts ended.
    pub(super) rollouts: BTreeMap<Generation, Result<String, String>>,
    pub(super) pool: Arc<Pool>,
    /// Pools of earlier configurations that traffic may still hold.
    pub(super) old_pools: Vec<Weak<Pool>>,
    pub(super) fleet: Fleet,
    pub(super) workers: HashMap<Incarnation, WorkerRecord>,
    /// The stderr of the last process of a slot that ended.
    pub(super) last_words: HashMap<Slot, Arc<[String]>>,
    pub(super) restarts: Restarts,
    /// Where external workers join, while the supervisor runs.
    pub(super) listener: Option<ExternalListener>,
}

impl ManagedApp {
    pub(super) fn new(
        name: Arc<str>,
        definition: Definition,
        pool: Arc<Pool>,
        seed: u64,
        first: Incarnation,
    ) -> ManagedApp {
        let fleet = Fleet::new(name.clone(), definition.policy.clone(), seed, first.0);
        ManagedApp {
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
            listener: None,
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

    /// Other rules for the workers of a generation: its processes stay, and so does what they were started from.
    pub(super) fn adopt(&mut self, generation: Generation, target: &Definition, now: Time) {
        let policy = target.policy.clone();
        if let Some(known) = self.definitions.get_mut(&generation) {
            *known = if self.fleet.is_external() { target.clone() } else { known.ruled(policy.clone()) };
        }
        self.fleet.handle(Event::Adopt(Box::new(policy)), now);
    }

    /// Whether no new processes are needed for another definition: its rules at most differ.
    pub(super) fn runs_as(&self, generation: Generation, other: &Definition) -> bool {
        let known = self.definitions.get(&generation);
        known.is_some_and(|known| known.differences(other, Compare::Configured).is_empty())
    }

    /// Records how a rollout ended.
    pub(super) fn rolled(&mut self, generation: Generation, outcome: Result<String, (Option<Slot>, String)>) {
        const ROLLOUTS_MAX: usize = 8;
        let outcome = match outcome {
            Ok(text) => Ok(format!("{}: {text}", self.name)),
            Err((None, why)) if self.fleet.newest() > generation => {
                // What goes on is not known yet: a newer one is on its way.
                let newer = self.fleet.newest();
                Err(format!("{}: generation {generation} was given up for generation {newer}: {why}", self.name))
            }
            Err((slot, why)) => {
                let kept = self.fleet.generations().0;
                let why = self.why_failed(slot, &why);
                Err(format!("{}: generation {generation} was given up, generation {kept} goes on: {why}", self.name))
            }
        };
        self.rollouts.insert(generation, outcome);
        while self.rollouts.len() > ROLLOUTS_MAX {
            self.rollouts.pop_first();
        }
        self.definitions.retain(|generation, _| self.fleet.needs(*generation));
    }

    /// A reason with the slot, and what its process died of as its output tells it; else its last lines.
    pub(super) fn why_failed(&self, slot: Option<Slot>, why: &str) -> String {
        let Some(slot) = slot else { return why.to_owned() };
        let exit = self.fleet.slots().find(|(s, _)| *s == slot).and_then(|(_, seat)| seat.last_exit.clone());
        let exit =
            exit.filter(|exit| !why.contains(exit.as_str())).map(|exit| format!(" ({exit})")).unwrap_or_default();
        let mut text = format!("slot {slot}: {why}{exit}");
        let Some(words) = self.last_words.get(&slot).filter(|words| !words.is_empty()) else { return text };
        let lines = match cause::of(words) {
            Some(cause) => {
                text.push_str(": ");
                text.push_str(&cause.headline);
                cause.lines
            }
            None => {
                text.push_str("; its last lines of output:");
                words.iter().skip(words.len().saturating_sub(LAST_LINES)).cloned().collect()
            }
        };
        lines.iter().for_each(|line| {
            text.push_str("\n  ");
            text.push_str(line);
        });
        if let Some(advice) = port_taken::advice(words).filter(|_| self.fleet.policy().surge > 0) {
            text.push_str(&format!("\n{advice}"));
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

    /// A number that no worker of this app has had.
    pub(super) fn next_incarnation(&self) -> u32 {
        self.fleet.next_incarnation()
    }

    /// Other traffic rules may come with another pool: both hold the same workers while anybody looks.
    pub(super) fn use_pool(&mut self, pool: Arc<Pool>) {
        if !Arc::ptr_eq(&self.pool, &pool) {
            let old = std::mem::replace(&mut self.pool, pool);
            self.old_pools.push(Arc::downgrade(&old));
            self.fleet.publish_again();
        }
    }

    /// Tells traffic which workers do not answer any more.
    pub(super) fn publish_silence(&self) {
        for worker in self.fleet.workers() {
            let silent = matches!(worker.state, State::Unhealthy | State::Killing);
            let members = self.workers.get(&worker.incarnation).into_iter().flat_map(|record| &record.members);
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
        // No other worker could take them.
        let stopping = expecting && self.fleet.is_stopping();
        let seat = |(incarnation, open)| {
            let member = self.workers.get(&incarnation)?.member()?.clone();
            let worker = self.fleet.workers().find(|worker| worker.incarnation == incarnation);
            worker.into_iter().for_each(|worker| member.set_generation(worker.generation));
            Some(Seat { member, open: open || stopping })
        };
        self.fleet.seats().filter_map(seat).collect()
    }

    /// No worker will come for requests that wait.
    pub(super) fn is_closed(&self) -> bool {
        self.fleet.is_stopping() && self.fleet.seats().next().is_none()
    }

    pub(super) fn keep_last_words(&mut self, incarnation: Incarnation) {
        if let Some(record) = self.workers.get(&incarnation) {
            self.last_words.insert(record.id.slot, record.tail.lines().into());
        }
    }

    /// Records how a process ended. Must be called before the fleet is told, which changes the worker's state.
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
            let record = self.workers.get(&worker.incarnation);
            WorkerStatus {
                slot: worker.slot,
                incarnation: worker.incarnation,
                generation: worker.generation,
                pid: worker.pid,
                state: worker.state,
                reason: worker.reason.clone(),
                since: worker.since,
                socket: record.and_then(WorkerRecord::member).map(|member| member.socket.clone()),
                stats: record.and_then(|record| record.stats),
                serving_pid: record.and_then(|record| record.serving_pid),
                ports: record.map(|record| record.ports.clone()).unwrap_or_default(),
                usage: record.and_then(|record| record.usage),
                cpu: record.and_then(|record| record.cpu),
                carried: Carried::new(record.map(|record| record.members.clone()).unwrap_or_default()),
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

    /// Where the app's external workers join, if it has such.
    pub(super) fn external(&self) -> Option<&External> {
        let (present, _) = self.fleet.generations();
        self.definitions.get(&present)?.spec.external.as_ref()
    }

    /// Lets its external workers in, if it has such.
    pub(super) fn listen(
        &mut self,
        registry: &Registry,
        joins: &mpsc::Sender<Join>,
        take_over: bool,
    ) -> Result<(), Error> {
        let Some(external) = self.external() else { return Ok(()) };
        let (registry, joins) = (registry.clone(), joins.clone());
        let opened = ExternalListener::open(self.name.clone(), external, registry, joins, take_over)?;
        self.listener = Some(opened);
        Ok(())
    }

    /// Lets them in again where something of ours was removed. Tells whether it was.
    pub(super) fn listen_again(&mut self, registry: &Registry, joins: &mpsc::Sender<Join>) -> Result<bool, Error> {
        let Some(before) = self.listener.take_if(|listener| listener.is_lost()) else { return Ok(false) };
        if let Err(e) = self.listen(registry, joins, false) {
            self.listener = Some(before);
            return Err(e);
        }
        if let Some(anew) = &mut self.listener {
            anew.follow(before);
        }
        Ok(true)
    }

    /// Why no command can start, replace or end its workers.
    pub(super) fn refuses_commands(&self) -> Option<String> {
        self.fleet.is_external().then(|| {
            format!("{}: its workers are external: whoever started them starts, restarts and ends them", self.name)
        })
    }

    /// Why a reload cannot make this of the app.
    pub(super) fn cannot_become(&self, definition: &Definition) -> Option<String> {
        let place = |external: Option<&External>| external.map(|external| external.directory.clone());
        (place(self.external()) != place(definition.spec.external.as_ref())).then(|| {
            format!(
                "{}: whether its workers are external, and in which directory, cannot change while it runs; give \
                 the app another name",
                self.name
            )
        })
    }

    /// Workers of other users may join from now on.
    pub(super) fn admit_users(&self, definition: &Definition) {
        if let (Some(listener), Some(external)) = (&self.listener, &definition.spec.external)
            && let Err(e) = listener.admit_users(&external.users)
        {
            log::error!("{}: {e}", self.name);
        }
    }
}
