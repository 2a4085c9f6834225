//! External workers that dial in.

use super::app::ManagedApp;
use super::apps::Apps;
use super::setup::Settings;
use super::worker_record::WorkerRecord;
use crate::fleet::Event;
use crate::process::control::{Expected, Join, Place, Registry, Turned};
use crate::worker::{Tag, WorkerId};

impl Apps {
    /// Answers a worker that has dialled in. It may have left meanwhile: its place is dropped in time. Without
    /// `may_change` only those that are known get theirs.
    pub(super) fn join(&mut self, join: Join, may_change: bool) {
        let place = self.place(&join, may_change);
        let _ = join.reply.send(place);
    }

    fn place(&mut self, join: &Join, may_change: bool) -> Result<(WorkerId, Place), Turned> {
        let now = self.now();
        let found = self.by_id.values_mut().find(|app| app.name == join.app && !app.removed);
        let app = found.filter(|app| app.fleet.is_external()).ok_or("the app is not configured any more")?;
        if let Some(known) = self.registry.find(&join.app, &join.token) {
            // The same process again, or another one of a cluster.
            if known.socket != join.socket {
                return Err("its id belongs to a worker with another socket".into());
            }
            let record = app.workers.get(&known.id.incarnation).ok_or(Turned::Later("it has just been given up"))?;
            let place = describe(app, &known.id, record.tag, &self.settings, &self.registry);
            return Ok((known.id, place));
        }
        let alive =
            |record: &WorkerRecord| app.fleet.workers().any(|w| w.incarnation == record.id.incarnation && w.is_alive());
        if app.workers.values().any(|record| record.socket == join.socket && alive(record)) {
            return Err(format!("{} is another worker's socket", join.socket.display()).into());
        }
        if !may_change {
            return Err(Turned::Later("the proxy is being replaced"));
        }
        let (slot, incarnation) = app.fleet.vacancy()?;
        // Its sessions are found by the tag that it had, if nobody has it now.
        let tag = join.tag.filter(|tag| self.tags.reserve(*tag)).or_else(|| self.tags.take());
        let tag = tag.ok_or("all tags are in use")?;
        let id = WorkerId { app: join.app.clone(), slot, incarnation };
        let mut record = WorkerRecord::new(id.clone(), join.socket.clone());
        record.tag = Some(tag);
        record.serving_pid = join.pid;
        (record.token, record.uid, record.is_external) = (Some(join.token.clone()), join.uid, true);
        app.workers.insert(incarnation, record);
        let (token, uid, socket) = (join.token.clone(), join.uid, join.socket.clone());
        self.registry.expect(Expected { id: id.clone(), token, uid, socket });
        app.fleet.handle(Event::Joined { slot, incarnation, pid: join.pid }, now);
        let place = describe(app, &id, Some(tag), &self.settings, &self.registry);
        Ok((id, place))
    }
}

fn describe(app: &ManagedApp, id: &WorkerId, tag: Option<Tag>, settings: &Settings, registry: &Registry) -> Place {
    let (present, _) = app.fleet.generations();
    let ports = app.definitions.get(&present).map(|definition| definition.spec.ports.clone()).unwrap_or_default();
    Place {
        app: id.app.to_string(),
        slot: id.slot.0,
        incarnation: id.incarnation.0,
        tag: tag.map(|tag| tag.as_str().to_owned()).unwrap_or_default(),
        port: settings.port,
        wait_ready: app.fleet.policy().wait_ready,
        keep_alive_ms: settings.keep_alive.as_millis() as u64,
        main_port: ports.main,
        settled_port: registry.settled(&id.app),
        ports: ports.further,
    }
}
