//! Makes a snapshot of the apps.

use super::super::app::ManagedApp;
use super::super::apps::Apps;
use super::super::definition::Definition;
use super::super::worker_record::WorkerRecord;
use super::format::{SavedApp, SavedDefinition, SavedWorker, Snapshot, VERSION};
use crate::fleet;
use crate::process::spec::Spec;
use crate::process::state;
use crate::worker::WorkerId;

/// Everything that is known of all workers now, with at most `learnt` sids of each app.
pub(in crate::supervisor) fn capture(apps: &Apps, learnt: usize) -> Snapshot {
    Snapshot {
        version: VERSION,
        boot: state::boot_id(),
        epoch: state::monotonic().saturating_sub(apps.now()),
        next_tag: apps.tags.next(),
        apps: apps.by_id.values().map(|app| SavedApp::of(app, learnt)).collect(),
        alarms: apps.alarms.save(),
    }
}

impl SavedApp {
    fn of(app: &ManagedApp, learnt: usize) -> SavedApp {
        // What is no text is no sid.
        let sid = |(sid, owner): (Box<[u8]>, WorkerId)| Some((String::from_utf8(sid.into()).ok()?, owner.incarnation));
        let definition = |d: &Definition| SavedDefinition {
            spec: d.spec.clone(),
            policy: d.policy.clone(),
            cwd: d.pinned.cwd.clone(),
            pinned: Some(Spec::clone(&d.pinned)),
            release: d.release.as_deref().cloned(),
        };
        let worker = |worker: &fleet::Worker| {
            let record = app.workers.get(&worker.incarnation)?;
            Some(SavedWorker::of(record, worker.is_connected()))
        };
        SavedApp {
            name: app.name.to_string(),
            removed: app.removed,
            definitions: app.definitions.iter().map(|(g, d)| (*g, definition(d))).collect(),
            rollouts: app.rollouts.clone(),
            fleet: app.fleet.save(),
            workers: app.fleet.workers().filter_map(worker).collect(),
            last_words: app.last_words.iter().map(|(slot, words)| (*slot, words.to_vec())).collect(),
            restarts: app.restarts.clone(),
            learnt: app.pool.learnt(learnt).into_iter().filter_map(sid).collect(),
        }
    }
}

impl SavedWorker {
    fn of(record: &WorkerRecord, connected: bool) -> SavedWorker {
        let child = record.child.as_ref();
        SavedWorker {
            slot: record.id.slot,
            incarnation: record.id.incarnation,
            process: child.and_then(|child| Some((child.pid(), child.start_time()?))),
            serving_pid: record.serving_pid,
            main_port: record.ports.main,
            connected,
            token: record.token.clone(),
            tag: record.tag,
            uid: record.uid,
            socket: record.socket.clone(),
            paths: record.members.iter().map(|member| member.socket.to_string()).collect(),
            served: record.requests(),
            stats: record.stats,
            engine: record.engine.clone(),
            sessions: record.sessions,
        }
    }
}
