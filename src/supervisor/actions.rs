//! Performs what the fleets ask for.

use super::alarms::{self, Raised};
use super::apps::Apps;
use super::child::Child;
use super::definition::Definition;
use super::effects::{HealthCheck, Start};
use super::messages::AppId;
use super::snapshot::WriteBarrier;
use super::worker_record::WorkerRecord;
use crate::fleet::{Action, Alarm, Event};
use crate::pool::Closing;
use crate::process::control::{self, Expected, ProxySays, Token};
use crate::process::spec::PortUse;
use crate::process::{Error, evidence};
use crate::worker::{Incarnation, Slot, WorkerId, counted};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What a worker with the preload script is told (docs/protocol.md).
#[derive(serde::Serialize)]
struct Introduction<'a> {
    protocol: u32,
    control: &'a Path,
    socket: &'a Path,
    app: &'a str,
    slot: u16,
    incarnation: u32,
    token: &'a str,
    tag: &'a str,
    port: u16,
    wait_ready: bool,
    keep_alive_ms: u64,
    orphan_ms: u64,
    main_port: Option<u16>,
    settled_port: Option<u16>,
    ports: &'a BTreeMap<u16, PortUse>,
}

impl Apps {
    /// Performs all actions of all fleets. `barrier`: where a state file is kept, a worker is written down before its
    /// process is started.
    pub(super) async fn perform_actions(&mut self, mut barrier: Option<&mut WriteBarrier>) {
        for id in self.ids() {
            while let Some(action) = self.get_mut(id).and_then(|app| app.fleet.poll_action()) {
                match action {
                    Action::Publish => self.publish(id).await,
                    Action::Spawn { slot, incarnation, .. } => {
                        if let Some(app) = self.get_mut(id) {
                            app.restarts.begun(slot);
                        }
                        self.spawn(id, slot, incarnation, barrier.as_deref_mut());
                    }
                    other => self.perform(id, other),
                }
            }
        }
    }

    /// Tells traffic which workers there are.
    async fn publish(&mut self, id: AppId) {
        let expects_requests = self.heartbeat.expects_requests();
        let Some(app) = self.get_mut(id) else { return };
        app.publish_silence();
        let seats = app.seats(expects_requests);
        for pool in app.pools() {
            pool.publish(seats.clone()).await;
        }
    }

    fn perform(&mut self, id: AppId, action: Action) {
        let Some(app) = self.by_id.get_mut(&id) else { return };
        let record = |incarnation| app.workers.get(incarnation);
        let child = |incarnation| record(incarnation).and_then(|record| record.child.as_deref());
        match action {
            Action::Note { level, text } => log::log!(level, "{text}"),
            // Performed above.
            Action::Publish | Action::Spawn { .. } => {}
            Action::Check { incarnation, attempt } => self.check(id, incarnation, attempt),
            Action::CloseTunnels { incarnation, code, window } => self.close_tunnels(id, incarnation, code, window),
            Action::Examine { incarnation } => self.examine(id, incarnation),
            Action::Rolled { generation, outcome } => app.rolled(generation, outcome),
            Action::Alarm { kind, slot, active, detail } => self.alarm(id, kind, slot, active, detail),
            Action::Signal { incarnation, signal } => {
                if let Some(child) = child(&incarnation) {
                    child.ask_to_end();
                    warn(child.signal_group(signal));
                }
            }
            Action::KillGroup { incarnation } => warn(child(&incarnation).map_or(Ok(()), Child::kill_group)),
            Action::SendShutdown { incarnation } => {
                if let Some(record) = record(&incarnation) {
                    record.child.iter().for_each(|child| child.ask_to_end());
                    self.registry.send_all(&record.id, &ProxySays::Shutdown);
                }
            }
            Action::Probe { incarnation, attempt } => {
                if let Some(member) = record(&incarnation).and_then(WorkerRecord::member) {
                    self.effects.probe(id, attempt, member.clone());
                }
            }
            Action::Cleanup { incarnation } => self.clean(id, incarnation),
        }
    }

    /// Starts a worker's process. Every start goes through here.
    pub(super) fn spawn(
        &mut self,
        id: AppId,
        slot: Slot,
        incarnation: Incarnation,
        barrier: Option<&mut WriteBarrier>,
    ) {
        if let Err(why) = self.try_spawn(id, slot, incarnation, barrier) {
            self.handle(id, Event::SpawnFailed { incarnation, why });
        }
    }

    fn try_spawn(
        &mut self,
        id: AppId,
        slot: Slot,
        incarnation: Incarnation,
        barrier: Option<&mut WriteBarrier>,
    ) -> Result<(), String> {
        let (Some(app), Some(script)) = (self.by_id.get_mut(&id), self.settings.preload.clone()) else {
            return Ok(());
        };
        let definition = app.definition_of(incarnation).cloned().ok_or("its definition is gone")?;
        if let Some(obstacle) = &definition.obstacle {
            return Err(obstacle.clone());
        }
        let worker = WorkerId { app: app.name.clone(), slot, incarnation };
        let socket = self.dir.socket(&worker);
        // First, so that a failure is cleaned up after.
        let record = app.workers.entry(incarnation).or_insert(WorkerRecord::new(worker.clone(), socket.clone()));
        record.uid = definition.spec.user.as_ref().map_or(record.uid, |user| user.uid);
        let mut preload = None;
        if definition.spec.preload {
            // Those that a proxy before us has written down for it.
            let tag = record.tag.or_else(|| self.tags.take()).ok_or("all tags are in use")?;
            record.tag = Some(tag);
            let token = record.token.clone().map_or_else(Token::random, Ok);
            let token = token.map_err(|e| format!("no random numbers: {e}"))?;
            record.token = Some(token.clone());
            let uid = record.uid;
            preload = Some((script, self.introduction(&worker, &socket, &token, tag.as_str(), &definition)?));
            self.registry.expect(Expected { id: worker.clone(), token, uid, socket: socket.clone() });
        }
        let (spec, dir) = (definition.pinned.clone(), self.dir.clone());
        self.starting.insert((id, incarnation));
        let written = barrier.map(WriteBarrier::demand);
        let watch = definition.watch();
        self.effects.start(Start { app: id, id: worker, spec, dir, socket, preload, written, watch });
        Ok(())
    }

    fn introduction(
        &self,
        id: &WorkerId,
        socket: &Path,
        token: &Token,
        tag: &str,
        definition: &Definition,
    ) -> Result<String, String> {
        let introduction = Introduction {
            protocol: control::PROTOCOL,
            control: &self.dir.control_socket(),
            socket,
            app: &id.app,
            slot: id.slot.0,
            incarnation: id.incarnation.0,
            token: token.as_str(),
            tag,
            port: self.settings.port,
            wait_ready: definition.policy.wait_ready,
            keep_alive_ms: self.settings.keep_alive.as_millis() as u64,
            orphan_ms: self.settings.orphan_timeout.as_millis() as u64,
            main_port: definition.spec.ports.main,
            settled_port: self.registry.settled(&id.app),
            ports: &definition.spec.ports.further,
        };
        serde_json::to_string(&introduction).map_err(|e| e.to_string())
    }

    fn close_tunnels(&self, id: AppId, incarnation: Incarnation, code: u16, window: Duration) {
        let Some(app) = self.get(id) else { return };
        let Some(record) = app.workers.get(&incarnation) else { return };
        record.members.iter().for_each(|member| member.tunnels.close(Closing { code, window }));
        if !app.fleet.is_external() {
            let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            self.registry.send_all(&record.id, &ProxySays::Drain { window_ms });
        }
    }

    fn clean(&mut self, id: AppId, incarnation: Incarnation) {
        let Some(app) = self.by_id.get_mut(&id) else { return };
        let Some(record) = app.workers.get_mut(&incarnation) else { return };
        record.child = None;
        self.registry.forget(&record.id);
        if let Some(listener) = &app.listener {
            // It may come back at once, and with its tag.
            record.tag.take().into_iter().for_each(|tag| self.tags.give_back(tag));
            listener.sweep();
        }
        let readers = std::mem::take(&mut record.readers);
        self.effects.clean(id, record.id.clone(), self.dir.clone(), readers);
    }

    fn check(&mut self, id: AppId, incarnation: Incarnation, attempt: u32) {
        let Some(app) = self.get(id) else { return };
        let Some(member) = app.workers.get(&incarnation).and_then(WorkerRecord::member).cloned() else { return };
        let Some(definition) = app.definition_of(incarnation) else { return };
        let check = HealthCheck { http: definition.http_check(), timeout: definition.policy.health.timeout };
        self.effects.check(id, attempt, member, check);
    }

    /// What can be seen of a worker that hangs, before it is killed.
    fn examine(&mut self, id: AppId, incarnation: Incarnation) {
        let Some(record) = self.get(id).and_then(|app| app.workers.get(&incarnation)) else { return };
        let Some(child) = &record.child else { return };
        let pid = record.serving_pid.unwrap_or(child.pid());
        let mut seen = evidence::of(pid);
        if let Some(stats) = &record.stats {
            seen.push(format!("last statistics: {stats:?}"));
        }
        let carried = record.carried();
        seen.push(format!("carries: {}, {} parked", counted(carried.active, "request"), carried.parked));
        let (slot, text) = (record.id.slot, seen.join("; "));
        log::warn!("{} (pid {pid}) hangs: {text}", record.id);
        let detail = format!("{} (pid {pid}) hangs and is killed: {text}", record.id);
        self.alarm(id, Alarm::Hung, Some(slot), true, detail);
    }

    fn alarm(&mut self, id: AppId, kind: Alarm, slot: Option<Slot>, active: bool, mut detail: String) {
        let Some(app) = self.get(id) else { return };
        if !active {
            return self.alarms.clear(alarms::Kind::from(kind), &app.name, slot);
        }
        if kind == Alarm::CrashLoop {
            detail = app.why_failed(slot, &detail);
        }
        self.alarms.raise(Raised { kind: kind.into(), app: app.name.clone(), slot, detail });
    }
}

fn warn(done: Result<(), Error>) {
    if let Err(e) = done {
        log::warn!("{e}");
    }
}
