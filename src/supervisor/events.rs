//! What has happened, as the fleets are told it: reports of effects and of workers, and measurements.

use super::app::ManagedApp;
use super::apps::{Apps, DRAIN_CHECK_INTERVAL, MEASURE_INTERVAL};
use super::child::ChildHandle;
use super::effects;
use super::messages::{AppId, EffectReport, EffectResult, Started};
use super::output_readers::PausedReader;
use super::{renounced, unreached};
use crate::fleet::{Event, State, Surroundings};
use crate::process::control::{PortState, Report, Reported};
use crate::process::memory;
use crate::process::output::{Rest, Stream};
use crate::worker::{Generation, Incarnation, WorkerId};
use tokio::sync::{mpsc, watch};

/// How many reports of workers one turn takes at most.
const REPORTS_PER_TURN: usize = 128;

impl Apps {
    /// What draining workers still carry, when it is time to tell.
    pub(super) fn check_drains(&mut self) {
        let now = self.now();
        if now < self.clock.drains_checked + DRAIN_CHECK_INTERVAL {
            return;
        }
        self.clock.drains_checked = now;
        for app in self.by_id.values_mut() {
            let draining = app.fleet.workers().filter(|w| w.state == State::Draining).map(|w| w.incarnation);
            for incarnation in draining.collect::<Vec<_>>() {
                let Some(mut carried) = app.workers.get(&incarnation).map(|record| record.carried()) else { continue };
                if self.heartbeat.expects_requests() {
                    carried.active = carried.active.max(1);
                }
                app.fleet.handle(Event::Carries { incarnation, carried }, now);
            }
        }
    }

    /// Whether [`Apps::measure`] is due.
    pub(super) fn must_measure(&self) -> bool {
        self.now().saturating_sub(self.clock.measured) >= MEASURE_INTERVAL
    }

    /// What every worker does and uses.
    pub(super) fn measure(&mut self) {
        let now = self.now();
        let passed = now.saturating_sub(self.clock.measured);
        self.clock.measured = now;
        let scales = self.by_id.values().any(|app| {
            let policy = app.fleet.policy();
            policy.most() > policy.instances
        });
        let head_room = if scales { memory::head_room() } else { None };
        for app in self.by_id.values_mut() {
            unreached::search(app, now);
            renounced::search(app, now);
            for (incarnation, record) in &mut app.workers {
                let load = record.measure(passed);
                app.fleet.handle(Event::Measured { incarnation: *incarnation, load }, now);
            }
            let queue_wait = app.pool.queue().take_longest();
            app.fleet.handle(Event::Second(Surroundings { queue_wait, head_room }), now);
        }
    }

    pub(super) fn observe_effect(&mut self, EffectReport { app: id, incarnation, result }: EffectReport) {
        match result {
            EffectResult::Started(Ok(started)) => {
                let events = self.started(id, incarnation, started);
                events.into_iter().for_each(|event| self.handle(id, event));
            }
            EffectResult::Started(Err(e)) => {
                self.starting.remove(&(id, incarnation));
                self.handle(id, Event::SpawnFailed { incarnation, why: e.to_string() });
            }
            EffectResult::Probed { attempt, outcome: Ok(()) } => {
                self.handle(id, Event::ProbeOk { incarnation, attempt });
            }
            EffectResult::Probed { attempt, outcome: Err(why) } => {
                self.handle(id, Event::ProbeFailed { incarnation, attempt, why });
            }
            EffectResult::Checked { attempt, outcome } => {
                self.handle(id, Event::Checked { incarnation, attempt, answer: outcome });
            }
            EffectResult::Exited(exit) => {
                if let Some(app) = self.get_mut(id) {
                    app.keep_last_words(incarnation);
                    app.ended(incarnation, Some(exit));
                }
                self.handle(id, Event::Exited { incarnation, how: exit.to_string() });
            }
            EffectResult::Cleaned => {
                let record = self.get_mut(id).and_then(|app| app.workers.remove(&incarnation));
                if let Some(tag) = record.and_then(|record| record.tag) {
                    self.tags.give_back(tag);
                }
                self.handle(id, Event::Cleaned { incarnation });
            }
        }
    }

    /// Returns what the fleet is to be told.
    pub(super) fn started(&mut self, id: AppId, incarnation: Incarnation, started: Started) -> Vec<Event> {
        self.starting.remove(&(id, incarnation));
        if !self.get(id).is_some_and(|app| app.workers.contains_key(&incarnation)) {
            log::error!("#{incarnation} started too late and is killed");
            effects::discard(started.child);
            return Vec::new();
        }
        let output = started.output.into_iter().map(|(stream, pipe)| (stream, Rest { pipe, partial: Vec::new() }));
        self.attach(id, incarnation, started.child, output.collect())
    }

    /// Watches and reads a process. Returns what the fleet is to be told of one that has just begun.
    pub(super) fn attach(
        &mut self,
        id: AppId,
        incarnation: Incarnation,
        child: ChildHandle,
        output: Vec<(Stream, Rest)>,
    ) -> Vec<Event> {
        let Some(app) = self.by_id.get_mut(&id) else { return Vec::new() };
        let with_preload = app.definition_of(incarnation).is_none_or(|definition| definition.spec.preload);
        let worker = app.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let generation = worker.map_or(Generation(0), |worker| worker.generation);
        let Some(record) = app.workers.get_mut(&incarnation) else { return Vec::new() };
        let pid = child.pid();
        let (exited, exited_out) = watch::channel(false);
        let (reading, read) = mpsc::channel(1);
        record.exited = Some(exited_out);
        record.child = Some(child.clone());
        effects::watch_exit(id, record.id.clone(), child, exited, read, self.effects.reports());
        let mut events = vec![Event::Spawned { incarnation, pid }];
        if !with_preload {
            if record.members.is_empty() {
                let socket = record.socket.to_string_lossy().into_owned();
                record.moved(socket.into());
            }
            events.push(Event::Path { incarnation });
        }
        for (stream, rest) in output {
            self.output.read(record, generation, PausedReader { stream, rest, reading: reading.clone() });
        }
        events
    }

    /// Goes on reading a stream after a pause.
    pub(super) fn read_on(&mut self, id: AppId, incarnation: Incarnation, paused: PausedReader) {
        let Some(app) = self.by_id.get_mut(&id) else { return };
        let worker = app.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let generation = worker.map_or(Generation(0), |worker| worker.generation);
        if let Some(record) = app.workers.get_mut(&incarnation) {
            self.output.read(record, generation, paused);
        }
    }

    /// The first report, and with it those that wait, up to a bound: each turn looks at all workers, so a turn for each
    /// report would let a worker that sends many cost as much as there are others.
    pub(super) fn observe_reports(&mut self, first: Reported, waiting: &mut mpsc::Receiver<Reported>) {
        self.observe_report(&first.0, first.1);
        for _ in 1..REPORTS_PER_TURN {
            let Ok((id, report)) = waiting.try_recv() else { return };
            self.observe_report(&id, report);
        }
    }

    pub(super) fn observe_report(&mut self, id: &WorkerId, report: Report) {
        let incarnation = id.incarnation;
        // An app that left may have a namesake; numbers of workers are never used twice.
        let theirs = |app: &ManagedApp| app.name == id.app && app.workers.contains_key(&incarnation);
        let Some((at, app)) = self.by_id.iter_mut().find(|(_, app)| theirs(app)) else { return };
        let Some(record) = app.workers.get_mut(&incarnation) else { return };
        let event = match report {
            Report::Hello { pid, .. } => {
                // Until the main server is known: the first to dial in may be a launcher.
                record.serving_pid = record.serving_pid.or(pid);
                Event::Hello { incarnation }
            }
            Report::HungUp => {
                // It may have died, as under `node --watch`; the next one says who it is.
                record.serving_pid = record.serving_pid.filter(|_| record.child.is_none());
                Event::HungUp { incarnation }
            }
            Report::Path { socket, port, pid } => {
                record.serving_pid = pid.or(record.serving_pid);
                record.ports.main = port;
                record.ports.further.retain(|further, _| Some(*further) != port);
                record.moved(socket);
                Event::Path { incarnation }
            }
            Report::PathClosed => Event::PathClosed { incarnation },
            Report::Ready => Event::AppReady { incarnation },
            Report::Stats(stats) => {
                record.stats = Some(stats);
                record.sessions = Some(stats.sessions);
                record.members.iter().for_each(|member| member.engine.set_sessions(stats.sessions));
                Event::Heartbeat { incarnation }
            }
            Report::Engine { paths, sessions } => {
                record.engine = Some(paths);
                if let Some(stats) = &mut record.stats {
                    stats.sessions = sessions;
                }
                record.sessions = Some(sessions);
                return record.publish_engine();
            }
            Report::Port { port, state } => {
                log_port(id, port, &state);
                record.ports.further.insert(port, state);
                return;
            }
            // Messages between workers: to come.
            Report::Message(_) => return,
        };
        let at = *at;
        self.handle(at, event);
    }
}

/// A line for people who look for a port of their app.
fn log_port(id: &WorkerId, port: u16, state: &PortState) {
    let what = match state {
        PortState::Tcp { at } if *at == port => "this worker listens on it".to_owned(),
        PortState::Tcp { at } => format!("this worker listens on {at} instead (ports: {{{port}: each}})"),
        PortState::Taken => {
            format!("another process has it, and this worker tries on (ports: {{{port}: each}} gives each worker one)")
        }
        PortState::Off => "nobody listens on it".to_owned(),
        PortState::Refused(code) => format!("the system refuses it: {code}"),
    };
    log::info!("{id}: port {port} is not the app's public one (key port): {what}");
}
