//! What has happened, as the fleets are told it: answers to effects, reports of workers, and measurements.

use super::effects;
use super::keeper::{DRAIN_POLL, Keeper, MEASURE};
use super::messages::{EffectReport, EffectResult, Started};
use super::room::Room;
use crate::fleet::{Event, State, Surroundings};
use crate::process::control::{PortState, Report};
use crate::process::output::{Rest, Stream};
use crate::process::{Process, memory};
use crate::worker::{Incarnation, WorkerId};
use tokio::sync::{mpsc, watch};

impl Keeper {
    pub(super) fn look_at_drains(&mut self) {
        let now = self.now();
        if now < self.drains_seen + DRAIN_POLL {
            return;
        }
        self.drains_seen = now;
        for room in self.rooms.values_mut() {
            let draining = room.fleet.workers().filter(|w| w.state == State::Draining).map(|w| w.incarnation);
            for incarnation in draining.collect::<Vec<_>>() {
                let Some(mut carried) = room.workers.get(&incarnation).map(|entry| entry.carried()) else { continue };
                if self.pulse.expects_requests() {
                    carried.active = carried.active.max(1);
                }
                room.fleet.handle(Event::Carries { incarnation, carried }, now);
            }
        }
    }

    /// Once a second: what every worker does and uses.
    pub(super) fn measure(&mut self) {
        let now = self.now();
        let passed = now.saturating_sub(self.measured);
        if passed < MEASURE {
            return;
        }
        self.measured = now;
        self.look_at_guard();
        self.look_for_unreached();
        let scales = self.rooms.values().any(|room| {
            let policy = room.fleet.policy();
            policy.most() > policy.instances
        });
        let head_room = if scales { memory::head_room() } else { None };
        for room in self.rooms.values_mut() {
            for (incarnation, entry) in &mut room.workers {
                let load = entry.measure(passed);
                room.fleet.handle(Event::Measured { incarnation: *incarnation, load }, now);
            }
            let queue_wait = room.pool.queue().take_longest();
            room.fleet.handle(Event::Second(Surroundings { queue_wait, head_room }), now);
        }
    }

    pub(super) fn answered(&mut self, EffectReport { room, incarnation, answer }: EffectReport) {
        match answer {
            EffectResult::Started(Ok(started)) => {
                let events = self.started(room, incarnation, started);
                events.into_iter().for_each(|event| self.tell(room, event));
            }
            EffectResult::Started(Err(e)) => {
                self.starting.remove(&(room, incarnation));
                self.tell(room, Event::SpawnFailed { incarnation, why: e.to_string() });
            }
            EffectResult::Probed { attempt, answer: Ok(()) } => {
                self.tell(room, Event::ProbeOk { incarnation, attempt })
            }
            EffectResult::Probed { attempt, answer: Err(why) } => {
                self.tell(room, Event::ProbeFailed { incarnation, attempt, why });
            }
            EffectResult::Checked { attempt, answer } => {
                self.tell(room, Event::Checked { incarnation, attempt, answer })
            }
            EffectResult::Exited(exit) => {
                if let Some(room) = self.rooms.get_mut(&room) {
                    room.keep_last_words(incarnation);
                    room.ended(incarnation, Some(exit));
                }
                self.tell(room, Event::Exited { incarnation, how: exit.to_string() });
            }
            EffectResult::Cleaned => {
                let entry = self.rooms.get_mut(&room).and_then(|room| room.workers.remove(&incarnation));
                if let Some(tag) = entry.and_then(|entry| entry.tag) {
                    self.tags.give_back(tag);
                }
                self.tell(room, Event::Cleaned { incarnation });
            }
        }
    }

    /// Returns what the fleet is to be told.
    pub(super) fn started(&mut self, at: usize, incarnation: Incarnation, started: Started) -> Vec<Event> {
        self.starting.remove(&(at, incarnation));
        if !self.rooms.get(&at).is_some_and(|room| room.workers.contains_key(&incarnation)) {
            log::error!("#{incarnation} started too late and is killed");
            effects::discard(started.process);
            return Vec::new();
        }
        let [out, err] = [started.out, started.err].map(|pipe| Some(Rest { pipe, partial: Vec::new() }));
        self.attach(at, incarnation, started.process, out, err)
    }

    /// Watches and reads a process. Returns what the fleet is to be told of one that has just begun.
    pub(super) fn attach(
        &mut self,
        at: usize,
        incarnation: Incarnation,
        process: Process,
        out: Option<Rest>,
        err: Option<Rest>,
    ) -> Vec<Event> {
        let Some(room) = self.rooms.get_mut(&at) else { return Vec::new() };
        let with_preload = room.definition_of(incarnation).is_none_or(|definition| definition.spec.preload);
        let Some(entry) = room.workers.get_mut(&incarnation) else { return Vec::new() };
        let pid = process.pid();
        let (exited, exited_out) = watch::channel(false);
        let (reading, read) = mpsc::channel(1);
        entry.exited = Some(exited_out);
        entry.process = Some(process.clone());
        effects::watch_exit(at, entry.id.clone(), process, exited, read, self.inputs.clone());
        let mut events = vec![Event::Spawned { incarnation, pid }];
        if !with_preload {
            if entry.members.is_empty() {
                let socket = entry.socket.to_string_lossy().into_owned();
                entry.moved(socket.into());
            }
            events.push(Event::Path { incarnation });
        }
        for (rest, stream) in [(out, Stream::Out), (err, Stream::Err)] {
            if let Some(rest) = rest {
                self.read_on(at, incarnation, stream, rest, reading.clone());
            }
        }
        events
    }

    pub(super) fn reported(&mut self, id: &WorkerId, report: Report) {
        let incarnation = id.incarnation;
        // An app that left may have a namesake; numbers of workers are never used twice.
        let theirs = |room: &Room| room.name == id.app && room.workers.contains_key(&incarnation);
        let Some(at) = self.rooms.iter().find(|(_, room)| theirs(room)).map(|(at, _)| *at) else { return };
        let Some(room) = self.rooms.get_mut(&at) else { return };
        let Some(entry) = room.workers.get_mut(&incarnation) else { return };
        let event = match report {
            Report::Hello { pid, .. } => {
                entry.serving_pid = pid.or(entry.serving_pid);
                Event::Hello { incarnation }
            }
            Report::HungUp => Event::HungUp { incarnation },
            Report::Path(socket, _port) => {
                entry.moved(socket);
                Event::Path { incarnation }
            }
            Report::PathClosed => Event::PathClosed { incarnation },
            Report::Ready => Event::AppReady { incarnation },
            Report::Stats(stats) => {
                entry.stats = Some(stats);
                entry.sessions = Some(stats.sessions);
                entry.members.iter().for_each(|member| member.engine.set_sessions(stats.sessions));
                Event::Heartbeat { incarnation }
            }
            Report::Engine { paths, sessions } => {
                entry.engine = Some(paths);
                if let Some(stats) = &mut entry.stats {
                    stats.sessions = sessions;
                }
                entry.sessions = Some(sessions);
                return entry.tell_engine();
            }
            Report::Port { port, state } => return tell_port(id, port, &state),
            // Messages between workers: to come.
            Report::Message(_) => return,
        };
        self.tell(at, event);
    }
}

/// A line for people who look for a port of their app.
fn tell_port(id: &WorkerId, port: u16, state: &PortState) {
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
