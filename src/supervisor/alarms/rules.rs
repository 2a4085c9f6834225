//! Alarms from values: thresholds that must be crossed for a while, and counters that must not grow. Gets the time
//! handed in.

use super::kind::{Key, Kind, Raised};
use crate::worker::{Incarnation, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Thresholds. `None` and `false` watch nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rules {
    /// How long a threshold must be crossed before the alarm, and not be crossed before it is over.
    pub(crate) hold: Duration,
    /// Resident memory of a worker, in bytes.
    pub(crate) memory: Option<u64>,
    /// Event-loop utilization of a worker, 0 to 1.
    pub(crate) elu: Option<f64>,
    /// Event-loop lag of a worker.
    pub(crate) lag: Option<Duration>,
    /// Free bytes on a disk of ours: less than that.
    pub(crate) disk_free: Option<u64>,
    pub(crate) queue_overflow: bool,
    pub(crate) log_drops: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            hold: Duration::from_secs(30),
            memory: None,
            elu: Some(0.95),
            lag: Some(Duration::from_millis(500)),
            disk_free: Some(100_000_000),
            queue_overflow: true,
            log_drops: true,
        }
    }
}

/// What was measured at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measurements {
    pub(crate) apps: Vec<AppSample>,
    pub(crate) disks: Vec<DiskSample>,
}

#[derive(Clone, Debug)]
pub(crate) struct AppSample {
    pub(crate) app: Arc<str>,
    pub(crate) workers: Vec<WorkerSample>,
    /// Requests that the queue refused, since the start.
    pub(crate) refused: u64,
    /// Lines of output dropped since the start.
    pub(crate) log_drops: u64,
    /// In what servers its workers differ, for people.
    pub(crate) differing: Option<String>,
}

/// One worker; `None` where it is not known.
#[derive(Clone, Debug)]
pub(crate) struct WorkerSample {
    pub(crate) slot: Slot,
    pub(crate) incarnation: Incarnation,
    /// Bytes.
    pub(crate) memory: Option<u64>,
    pub(crate) elu: Option<f64>,
    pub(crate) lag: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) struct DiskSample {
    /// What stands there, for people: `log files in /var/log/x`.
    pub(crate) what: String,
    /// Nothing large is written there: a MiB is enough.
    pub(crate) small: bool,
    /// Bytes that we may still write; `None` when it does not say.
    pub(crate) free: Option<u64>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Change {
    Raise(Raised),
    Clear(Key),
}

/// How far below its threshold a value must fall for the alarm to end.
const RELEASE: f64 = 0.9;

/// Room for what the runtime directory holds, in bytes.
const ENOUGH: u64 = 1 << 20;

/// The rules and what they remember.
#[derive(Debug)]
pub(super) struct Evaluator {
    rules: Rules,
    gates: BTreeMap<Key, Gate>,
    counters: BTreeMap<Key, Counter>,
}

/// Remembers how long a threshold has been crossed, or not any more.
#[derive(Debug)]
struct Gate {
    of: Incarnation,
    active: bool,
    since: Option<Duration>,
    seen: Duration,
}

/// Remembers how far a counter had come.
#[derive(Debug)]
struct Counter {
    last: u64,
    /// By how much it has grown since the alarm began, and when it did last; `None` without an alarm.
    active: Option<(u64, Duration)>,
    seen: Duration,
}

/// A value beside its threshold.
struct Reading {
    over: bool,
    /// Clearly on the good side.
    under: bool,
    detail: String,
}

impl Evaluator {
    pub(super) fn new(rules: Rules) -> Evaluator {
        Evaluator { rules, gates: BTreeMap::new(), counters: BTreeMap::new() }
    }

    /// While an alarm lasts it is raised each time, with newer words.
    pub(super) fn observe(&mut self, measurements: &Measurements, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        for sample in &measurements.apps {
            for worker in &sample.workers {
                for (kind, reading) in self.rules.readings(worker) {
                    let key = Key { kind, app: sample.app.clone(), slot: Some(worker.slot) };
                    changes.extend(self.gate(key, worker.incarnation, reading, now));
                }
            }
            let over = sample.differing.is_some();
            let reading = Reading { over, under: !over, detail: sample.differing.clone().unwrap_or_default() };
            let key = Key { kind: Kind::ServersDiffer, app: sample.app.clone(), slot: None };
            changes.extend(self.gate(key, Incarnation(0), reading, now));
            let counters = [
                (Kind::QueueOverflow, self.rules.queue_overflow, sample.refused, "requests were refused by the queue"),
                (Kind::LogDrops, self.rules.log_drops, sample.log_drops, "lines of output were dropped"),
            ];
            for (kind, _, value, what) in counters.into_iter().filter(|(_, on, ..)| *on) {
                let key = Key { kind, app: sample.app.clone(), slot: None };
                changes.extend(self.count(key, value, what, now));
            }
        }
        if let Some(reading) = self.rules.disks(&measurements.disks) {
            let key = Key { kind: Kind::Disk, app: "".into(), slot: None };
            changes.extend(self.gate(key, Incarnation(0), reading, now));
        }
        self.forget(now, &mut changes);
        changes
    }

    fn gate(&mut self, key: Key, of: Incarnation, reading: Reading, now: Duration) -> Option<Change> {
        let gate = self.gates.entry(key.clone()).or_insert(Gate { of, active: false, since: None, seen: now });
        gate.seen = now;
        let was_active = gate.active;
        if gate.of != of {
            // Another process: what was wrong with the one before it is over.
            *gate = Gate { of, active: false, since: None, seen: now };
        }
        let leaving = if gate.active { reading.under } else { reading.over };
        let since = leaving.then(|| *gate.since.get_or_insert(now));
        gate.since = since;
        if since.is_some_and(|since| now.saturating_sub(since) >= self.rules.hold) {
            gate.active = !gate.active;
            gate.since = None;
        }
        let Reading { detail, .. } = reading;
        match (was_active, gate.active) {
            (_, true) => Some(Change::Raise(Raised { kind: key.kind, app: key.app, slot: key.slot, detail })),
            (true, false) => Some(Change::Clear(key)),
            (false, false) => None,
        }
    }

    fn count(&mut self, key: Key, value: u64, what: &str, now: Duration) -> Option<Change> {
        let counter = self.counters.entry(key.clone()).or_insert(Counter { last: 0, active: None, seen: now });
        counter.seen = now;
        // Less than before: it has begun anew.
        let before = counter.last.min(value);
        counter.last = value;
        if value > before {
            let (sum, grown) = counter.active.get_or_insert((0, now));
            *sum = sum.saturating_add(value - before);
            *grown = now;
            let detail = format!("{sum} {what}");
            return Some(Change::Raise(Raised { kind: key.kind, app: key.app, slot: key.slot, detail }));
        }
        let (_, grown) = counter.active?;
        if now.saturating_sub(grown) < self.rules.hold {
            return None;
        }
        counter.active = None;
        Some(Change::Clear(key))
    }

    /// The worker whose value has an alarm active.
    pub(super) fn holds(&self, key: &Key) -> Option<Incarnation> {
        self.gates.get(key).filter(|gate| gate.active).map(|gate| gate.of)
    }

    /// By how much a counter with an active alarm has grown, and when it did last.
    pub(super) fn grown(&self, key: &Key) -> Option<(u64, Duration)> {
        self.counters.get(key)?.active
    }

    /// Another process has raised this one. Nobody has measured since, so its end takes the whole hold.
    pub(super) fn put_gate(&mut self, key: Key, of: Incarnation) {
        self.gates.insert(key, Gate { of, active: true, since: None, seen: Duration::ZERO });
    }

    /// The same with a counter, which begins anew with the process.
    pub(super) fn put_counter(&mut self, key: Key, sum: u64, at: Duration) {
        self.counters.insert(key, Counter { last: 0, active: Some((sum, at)), seen: Duration::ZERO });
    }

    /// Whoever was not measured this time is gone.
    fn forget(&mut self, now: Duration, changes: &mut Vec<Change>) {
        self.gates.retain(|key, gate| {
            let gone = gate.seen != now;
            changes.extend((gone && gate.active).then(|| Change::Clear(key.clone())));
            !gone
        });
        self.counters.retain(|key, counter| {
            let gone = counter.seen != now;
            changes.extend((gone && counter.active.is_some()).then(|| Change::Clear(key.clone())));
            !gone
        });
    }
}

impl Rules {
    fn readings(&self, worker: &WorkerSample) -> Vec<(Kind, Reading)> {
        let mut readings = Vec::new();
        if let (Some(most), Some(is)) = (self.memory, worker.memory) {
            let detail = format!("{} MiB of memory, the threshold is {} MiB", is >> 20, most >> 20);
            readings.push((Kind::Memory, reading(is as f64, most as f64, detail)));
        }
        if let (Some(most), Some(is)) = (self.elu, worker.elu) {
            let detail = format!(
                "the event loop is busy {:.0} % of the time, the threshold is {:.0} %",
                is * 100.0,
                most * 100.0
            );
            readings.push((Kind::Elu, reading(is, most, detail)));
        }
        if let (Some(most), Some(is)) = (self.lag, worker.lag) {
            let detail =
                format!("the event loop is {} ms late, the threshold is {} ms", is.as_millis(), most.as_millis());
            readings.push((Kind::Lag, reading(is.as_secs_f64(), most.as_secs_f64(), detail)));
        }
        readings
    }

    /// One for all disks: the detail says which.
    fn disks(&self, disks: &[DiskSample]) -> Option<Reading> {
        let least = self.disk_free?;
        let least_of = |disk: &DiskSample| if disk.small { least.min(ENOUGH) } else { least };
        let known = || disks.iter().filter_map(|disk| Some((&disk.what, disk.free?, least_of(disk))));
        let scarce: Vec<String> = known()
            .filter(|(_, free, least)| free < least)
            .map(|(what, free, least)| format!("{what}: {} KiB free, the threshold is {} KiB", free >> 10, least >> 10))
            .collect();
        // What is not known yet ends nothing.
        let mut ample = known().map(|(_, free, least)| free as f64 * RELEASE > least as f64).peekable();
        let under = ample.peek().is_some() && ample.all(|ample| ample);
        let detail = scarce.join(", ");
        Some(Reading { over: !scarce.is_empty(), under, detail })
    }
}

fn reading(is: f64, most: f64, detail: String) -> Reading {
    Reading { over: is >= most, under: is < most * RELEASE, detail }
}
