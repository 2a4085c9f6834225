//! What takes time: each effect is a task that ends with a report to the event loop.

use super::child::ChildHandle;
use super::definition::FileCheck;
use super::messages::{AppId, EffectReport, EffectReports, EffectResult, Started};
use super::probe::{self, HttpCheck};
use super::snapshot::Written;
use super::worker_record::OutputReader;
use crate::pool::Member;
use crate::process::output::{self, Stream};
use crate::process::spec::Spec;
use crate::process::{Error, Exit, Job, Preload, RuntimeDir, spawn, strays};
use crate::worker::WorkerId;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long the exit of a process waits for its last words to be read.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(200);

/// What is done to workers. Tests have another implementation, which touches no process and no socket.
pub(super) trait Effects: Send {
    /// Ends with [`EffectResult::Started`].
    fn start(&self, start: Start);
    /// Asks whether the worker's socket takes connections: ends with [`EffectResult::Probed`].
    fn probe(&self, app: AppId, attempt: u32, member: Arc<Member>);
    /// Whether a ready worker is well: ends with [`EffectResult::Checked`].
    fn check(&self, app: AppId, attempt: u32, member: Arc<Member>, check: HealthCheck);
    /// Removes what a process left, once its output is read: ends with [`EffectResult::Cleaned`].
    fn clean(&self, app: AppId, id: WorkerId, dir: Arc<RuntimeDir>, readers: Vec<OutputReader>);
    /// Where the reports go.
    fn reports(&self) -> EffectReports;
}

/// What a start needs, owned, so that it can happen on another thread.
pub(super) struct Start {
    pub(super) app: AppId,
    pub(super) id: WorkerId,
    pub(super) spec: Arc<Spec>,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) socket: PathBuf,
    /// The script and what the worker is told.
    pub(super) preload: Option<(PathBuf, String)>,
    /// The state file must name the worker first. `None`: it does already, or there is none.
    pub(super) written: Option<Written>,
    /// Whether files are to be looked at, which may have changed since its generation began.
    pub(super) watch: Option<FileCheck>,
}

/// How a worker's health is found out.
pub(super) struct HealthCheck {
    /// The app's own; otherwise its socket must take connections.
    pub(super) http: Option<Arc<HttpCheck>>,
    pub(super) timeout: Duration,
}

/// Effects on processes of the operating system.
pub(super) struct ProcessEffects(pub(super) EffectReports);

impl Effects for ProcessEffects {
    /// Fork and exec block for milliseconds: not on a thread that serves traffic.
    fn start(&self, mut start: Start) {
        let reports = self.0.clone();
        tokio::spawn(async move {
            if let Some(written) = start.written.take() {
                written.wait().await;
            }
            let (app, id) = (start.app, start.id.clone());
            let started = match tokio::task::spawn_blocking(move || start.run()).await {
                Ok(started) => started,
                Err(e) => Err(Error::Io { doing: format!("starting {id}"), source: std::io::Error::other(e) }),
            };
            let report = EffectReport { app, incarnation: id.incarnation, result: EffectResult::Started(started) };
            let _ = reports.send(report).await;
        });
    }

    fn probe(&self, app: AppId, attempt: u32, member: Arc<Member>) {
        let reports = self.0.clone();
        tokio::spawn(async move {
            let outcome = probe::connect(&member).await.map(drop);
            let result = EffectResult::Probed { attempt, outcome };
            let _ = reports.send(EffectReport { app, incarnation: member.id.incarnation, result }).await;
        });
    }

    fn check(&self, app: AppId, attempt: u32, member: Arc<Member>, check: HealthCheck) {
        let reports = self.0.clone();
        let HealthCheck { http, timeout } = check;
        tokio::spawn(async move {
            let checked = async {
                match http {
                    Some(check) => check.ask(&member).await,
                    None => probe::connect(&member).await.map(drop),
                }
            };
            let outcome = tokio::time::timeout(timeout, checked).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}")));
            let result = EffectResult::Checked { attempt, outcome };
            let _ = reports.send(EffectReport { app, incarnation: member.id.incarnation, result }).await;
        });
    }

    fn clean(&self, app: AppId, id: WorkerId, dir: Arc<RuntimeDir>, readers: Vec<OutputReader>) {
        let reports = self.0.clone();
        tokio::spawn(async move {
            for reader in readers {
                // Readers are bounded in time; one that panicked has ended, too.
                let _ = reader.task.await;
            }
            let incarnation = id.incarnation;
            let removed = move || remove(&dir, &id).map_err(|e| format!("{id}: {e}"));
            match tokio::task::spawn_blocking(removed).await {
                Ok(Err(e)) => log::error!("{e}"),
                Err(e) => log::error!("cleaning up after #{incarnation}: {e}"),
                Ok(Ok(())) => {}
            }
            let _ = reports.send(EffectReport { app, incarnation, result: EffectResult::Cleaned }).await;
        });
    }

    fn reports(&self) -> EffectReports {
        self.0.clone()
    }
}

impl Start {
    /// Every process of a worker is started here.
    fn run(mut self) -> Result<Started, Error> {
        self.watch.take().into_iter().for_each(|check| check.run(&self.id.app));
        let user = self.spec.user.as_ref();
        // What was removed a moment ago.
        self.dir.heal()?;
        // A proxy that was killed may have come as far as this with the same worker.
        self.dir.remove_worker(&self.id)?;
        let (stdout, out) = output::make_pipe(&self.dir.log_pipe(&self.id, Stream::Out), user)?;
        let (stderr, err) = output::make_pipe(&self.dir.log_pipe(&self.id, Stream::Err), user)?;
        let preload = self.preload.as_ref().map(|(script, worker)| Preload { script, worker: worker.clone() });
        let instance = self.dir.instance();
        let job = Job { id: &self.id, spec: &self.spec, socket: &self.socket, instance, preload, stdout, stderr };
        Ok(Started { child: Arc::new(spawn(job)?), output: vec![(Stream::Out, out), (Stream::Err, err)] })
    }
}

/// Reports the end of a process, after its last words were read or had time enough to be.
pub(super) fn watch_exit(
    app: AppId,
    id: WorkerId,
    child: ChildHandle,
    exited: watch::Sender<bool>,
    mut read: mpsc::Receiver<()>,
    reports: EffectReports,
) {
    tokio::spawn(async move {
        let exit = child.wait().await.unwrap_or_else(|e| {
            log::error!("{id}: {e}");
            Exit::Unknown
        });
        exited.send_replace(true);
        // Nothing is ever sent: the channel closes when both readers have ended.
        let _ = tokio::time::timeout(LAST_WORDS_TIMEOUT, read.recv()).await;
        let report = EffectReport { app, incarnation: id.incarnation, result: EffectResult::Exited(exit) };
        let _ = reports.send(report).await;
    });
}

/// Ends a process that nobody waits for.
pub(super) fn discard(child: ChildHandle) {
    tokio::spawn(async move {
        let ended = match child.kill_group() {
            Ok(()) => child.wait().await.map(|_| ()),
            Err(e) => Err(e),
        };
        if let Err(e) = ended {
            log::error!("{e}");
        }
    });
}

fn remove(dir: &RuntimeDir, id: &WorkerId) -> Result<(), Error> {
    // A process that has left the group may still listen.
    strays::end_listeners(&dir.left_by(id)?);
    dir.remove_worker(id)
}
