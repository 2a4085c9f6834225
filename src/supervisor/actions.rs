//! Carries out what the fleets ask.

use super::alarm_event::{Kind, Raised};
use super::effects::{self, Introduction, Start};
use super::keeper::Keeper;
use super::saver::Saver;
use super::worker_record::Entry;
use crate::fleet::{Action, Event};
use crate::pool::Closing;
use crate::process::control::{self, Expected, ProxySays, Token};
use crate::process::{Error, Process, evidence};
use crate::worker::{Incarnation, Slot, WorkerId};

impl Keeper {
    pub(super) async fn carry_out(&mut self) {
        for at in self.rooms.keys().copied().collect::<Vec<_>>() {
            while let Some(action) = self.rooms.get_mut(&at).and_then(|room| room.fleet.poll_action()) {
                match action {
                    Action::Publish => self.publish(at).await,
                    other => self.act(at, other),
                }
            }
        }
    }

    async fn publish(&mut self, at: usize) {
        let expecting = self.pulse.expects_requests();
        let Some(room) = self.rooms.get_mut(&at) else { return };
        room.tell_silence();
        let seats = room.seats(expecting);
        for pool in room.pools() {
            pool.publish(seats.clone()).await;
        }
    }

    fn act(&mut self, at: usize, action: Action) {
        let Some(room) = self.rooms.get_mut(&at) else { return };
        let entry = |incarnation| room.workers.get(incarnation);
        let process = |incarnation| entry(incarnation).and_then(|entry| entry.process.as_ref());
        match action {
            Action::Note { level, text } => log::log!(level, "{text}"),
            Action::Publish => {}
            Action::Spawn { slot, incarnation, .. } => {
                room.restarts.begun(slot);
                self.spawn(at, slot, incarnation);
            }
            Action::Check { incarnation, attempt } => self.check(at, incarnation, attempt),
            Action::CloseTunnels { incarnation, code, window } => {
                let members = entry(&incarnation).into_iter().flat_map(|entry| &entry.members);
                members.for_each(|member| member.tunnels.close(Closing { code, window }));
                if let Some(entry) = entry(&incarnation).filter(|_| !room.fleet.is_external()) {
                    let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
                    self.registry.send_all(&entry.id, &ProxySays::Drain { window_ms });
                }
            }
            Action::Examine { incarnation } => self.examine(at, incarnation),
            Action::Rolled { generation, outcome } => room.rolled(generation, outcome),
            Action::Alarm { kind, slot, active, detail } => self.alarm(at, kind, slot, active, detail),
            Action::Signal { incarnation, signal } => {
                if let Some(process) = process(&incarnation) {
                    process.ask_to_end();
                    warn(process.signal_group(signal));
                }
            }
            Action::KillGroup { incarnation } => warn(process(&incarnation).map_or(Ok(()), Process::kill_group)),
            Action::SendShutdown { incarnation } => {
                if let Some(entry) = entry(&incarnation) {
                    entry.process.iter().for_each(Process::ask_to_end);
                    self.registry.send_all(&entry.id, &ProxySays::Shutdown);
                }
            }
            Action::Probe { incarnation, attempt } => {
                if let Some(entry) = entry(&incarnation) {
                    effects::probe(at, attempt, entry.member().cloned(), self.inputs.clone());
                }
            }
            Action::Cleanup { incarnation } => {
                if let Some(entry) = room.workers.get_mut(&incarnation) {
                    entry.process = None;
                    self.registry.forget(&entry.id);
                    if let Some(entrance) = &room.entrance {
                        // It may come back at once, and with its tag.
                        entry.tag.take().into_iter().for_each(|tag| self.tags.give_back(tag));
                        super::external::sweep(entrance.dir.clone());
                    }
                    let readers = std::mem::take(&mut entry.readers);
                    effects::clean(at, entry.id.clone(), self.dir.clone(), readers, self.inputs.clone());
                }
            }
        }
    }

    pub(super) fn spawn(&mut self, at: usize, slot: Slot, incarnation: Incarnation) {
        if let Err(why) = self.try_spawn(at, slot, incarnation) {
            self.tell(at, Event::SpawnFailed { incarnation, why });
        }
    }

    fn try_spawn(&mut self, at: usize, slot: Slot, incarnation: Incarnation) -> Result<(), String> {
        let (Some(room), Some(tools)) = (self.rooms.get_mut(&at), &self.tools) else { return Ok(()) };
        let definition = room.definition_of(incarnation).cloned().ok_or("its definition is gone")?;
        let id = WorkerId { app: room.name.clone(), slot, incarnation };
        let socket = self.dir.socket(&id);
        // First, so that a failure is cleaned up after.
        let entry = room.workers.entry(incarnation).or_insert(Entry::new(id.clone(), socket.clone()));
        entry.uid = definition.spec.user.as_ref().map_or(entry.uid, |user| user.uid);
        let mut preload = None;
        if definition.spec.preload {
            // Those that a proxy before us has written down for it.
            let tag = entry.tag.or_else(|| self.tags.take()).ok_or("all tags are in use")?;
            entry.tag = Some(tag);
            let token = entry.token.clone().map_or_else(Token::random, Ok);
            let token = token.map_err(|e| format!("no random numbers: {e}"))?;
            let introduction = Introduction {
                protocol: control::PROTOCOL,
                control: &self.dir.control_socket(),
                socket: &socket,
                app: &id.app,
                slot: slot.0,
                incarnation: incarnation.0,
                token: token.as_str(),
                tag: tag.as_str(),
                port: self.port,
                wait_ready: definition.policy.wait_ready,
                keep_alive_ms: self.keep_alive.as_millis() as u64,
                orphan_ms: self.orphan_timeout.as_millis() as u64,
                main_port: definition.spec.ports.main,
                settled_port: self.registry.settled(&id.app),
                ports: &definition.spec.ports.further,
            };
            let text = serde_json::to_string(&introduction).map_err(|e| e.to_string())?;
            preload = Some((tools.preload.clone(), text));
            entry.token = Some(token.clone());
            let uid = entry.uid;
            self.registry.expect(Expected { id: id.clone(), token, uid, socket: socket.clone() });
        }
        let (spec, dir) = (definition.pinned.clone(), self.dir.clone());
        self.starting.insert((at, incarnation));
        let ahead = self.saver.as_mut().map(Saver::ahead);
        Start { room: at, id, spec, dir, socket, preload, ahead }.begin(self.inputs.clone());
        Ok(())
    }

    fn check(&mut self, at: usize, incarnation: Incarnation, attempt: u32) {
        let Some(room) = self.rooms.get(&at) else { return };
        let Some(member) = room.workers.get(&incarnation).and_then(Entry::member).cloned() else { return };
        let Some(definition) = room.definition_of(incarnation) else { return };
        let limit = definition.policy.health.timeout;
        effects::check(at, attempt, member, definition.http_check(), limit, self.inputs.clone());
    }

    /// What can be seen of a worker that hangs, before it is killed.
    fn examine(&mut self, at: usize, incarnation: Incarnation) {
        let Some(entry) = self.rooms.get(&at).and_then(|room| room.workers.get(&incarnation)) else { return };
        let Some(process) = &entry.process else { return };
        let pid = entry.serving_pid.unwrap_or(process.pid());
        let mut seen = evidence::of(pid);
        if let Some(stats) = &entry.stats {
            seen.push(format!("last statistics: {stats:?}"));
        }
        let carried = entry.carried();
        seen.push(format!("carries: {} requests, {} parked", carried.active, carried.parked));
        let (slot, text) = (entry.id.slot, seen.join("; "));
        log::warn!("{} (pid {pid}) hangs: {text}", entry.id);
        let detail = format!("{} (pid {pid}) hangs and is killed: {text}", entry.id);
        self.alarm(at, Kind::Hung, Some(slot), true, detail);
    }

    fn alarm(&mut self, at: usize, kind: Kind, slot: Option<Slot>, active: bool, mut detail: String) {
        let (Some(room), Some(hook)) = (self.rooms.get(&at), &self.alarms) else { return };
        if !active {
            return hook.clear(kind, &room.name, slot);
        }
        if kind == Kind::CrashLoop {
            detail = room.why_failed(slot, &detail);
        }
        hook.raise(Raised { kind, app: room.name.clone(), slot, detail });
    }

    /// The last resort: no rule decides any more.
    pub(super) fn kill_processes(&self) {
        let entries = self.rooms.values().flat_map(|room| room.workers.values());
        for process in entries.filter_map(|entry| entry.process.as_ref()) {
            warn(process.kill_group());
        }
    }
}

fn warn(done: Result<(), Error>) {
    if let Err(e) = done {
        log::warn!("{e}");
    }
}
