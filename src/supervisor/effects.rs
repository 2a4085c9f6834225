//! What takes time: each effect is a task that answers with an input.

use super::messages::{EffectReport, EffectReports, EffectResult, Started};
use super::probe::{self, HttpCheck};
use super::saver::Ahead;
use super::worker_record::Reading;
use crate::pool::Member;
use crate::process::control::Token;
use crate::process::output::{self, Stream};
use crate::process::spec::{PortUse, Spec};
use crate::process::{Error, Exit, Job, Preload, Process, RuntimeDir, spawn, strays};
use crate::worker::WorkerId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// What a start needs, owned, so that it can happen on another thread.
pub(super) struct Start {
    pub(super) room: usize,
    pub(super) id: WorkerId,
    pub(super) spec: Arc<Spec>,
    pub(super) dir: Arc<RuntimeDir>,
    pub(super) socket: PathBuf,
    pub(super) preload: Option<(PathBuf, String)>,
    /// `None`: it is written down already, or nothing is.
    pub(super) ahead: Option<Ahead>,
}

/// What a worker with the preload script is told (docs/protocol.md).
#[derive(serde::Serialize)]
pub(super) struct Introduction<'a> {
    pub(super) protocol: u32,
    pub(super) control: &'a Path,
    pub(super) socket: &'a Path,
    pub(super) app: &'a str,
    pub(super) slot: u16,
    pub(super) incarnation: u32,
    pub(super) token: &'a str,
    pub(super) tag: &'a str,
    pub(super) port: u16,
    pub(super) wait_ready: bool,
    pub(super) keep_alive_ms: u64,
    pub(super) orphan_ms: u64,
    pub(super) main_port: Option<u16>,
    pub(super) settled_port: Option<u16>,
    pub(super) ports: &'a BTreeMap<u16, PortUse>,
}

impl Start {
    /// Fork and exec block for milliseconds: not on a thread that serves traffic.
    pub(super) fn begin(mut self, inputs: EffectReports) {
        tokio::spawn(async move {
            if let Some(ahead) = self.ahead.take() {
                ahead.wait().await;
            }
            let (room, incarnation) = (self.room, self.id.incarnation);
            let id = self.id.clone();
            let started = match tokio::task::spawn_blocking(move || self.start()).await {
                Ok(started) => started,
                Err(e) => Err(Error::Io { doing: format!("starting {id}"), source: std::io::Error::other(e) }),
            };
            let answer = EffectResult::Started(started);
            let _ = inputs.send(EffectReport { room, incarnation, answer }).await;
        });
    }

    fn start(self) -> Result<Started, Error> {
        let user = self.spec.user.as_ref();
        // A proxy that was killed may have come as far as this with the same worker.
        self.dir.remove_worker(&self.id)?;
        let (stdout, out) = output::make_pipe(&self.dir.log_pipe(&self.id, Stream::Out), user)?;
        let (stderr, err) = output::make_pipe(&self.dir.log_pipe(&self.id, Stream::Err), user)?;
        let preload = self.preload.as_ref().map(|(script, worker)| Preload { script, worker: worker.clone() });
        let job = Job { id: &self.id, spec: &self.spec, socket: &self.socket, preload, stdout, stderr };
        Ok(Started { process: spawn(job)?, out, err })
    }
}

/// Tells the end of a process, after its last words were read or had time enough to be.
pub(super) fn watch_exit(
    room: usize,
    id: WorkerId,
    process: Process,
    exited: watch::Sender<bool>,
    mut read: mpsc::Receiver<()>,
    inputs: EffectReports,
) {
    const LAST_WORDS: Duration = Duration::from_millis(200);
    tokio::spawn(async move {
        let exit = process.wait().await.unwrap_or_else(|e| {
            log::error!("{id}: {e}");
            Exit::Unknown
        });
        exited.send_replace(true);
        // Nothing is ever sent: the channel closes when both readers have ended.
        let _ = tokio::time::timeout(LAST_WORDS, read.recv()).await;
        let _ =
            inputs.send(EffectReport { room, incarnation: id.incarnation, answer: EffectResult::Exited(exit) }).await;
    });
}

/// Ends a process that nobody waits for.
pub(super) fn discard(process: Process) {
    tokio::spawn(async move {
        let ended = match process.kill_group() {
            Ok(()) => process.wait().await.map(|_| ()),
            Err(e) => Err(e),
        };
        if let Err(e) = ended {
            log::error!("{e}");
        }
    });
}

/// Asks whether the socket takes connections.
pub(super) fn probe(room: usize, attempt: u32, member: Option<Arc<Member>>, inputs: EffectReports) {
    let Some(member) = member else { return };
    tokio::spawn(async move {
        let answer = EffectResult::Probed { attempt, answer: probe::connect(&member).await.map(drop) };
        let _ = inputs.send(EffectReport { room, incarnation: member.id.incarnation, answer }).await;
    });
}

/// Sees whether a ready worker is well: by the app's own check, else whether its socket takes connections.
pub(super) fn check(
    room: usize,
    attempt: u32,
    member: Arc<Member>,
    check: Option<Arc<HttpCheck>>,
    limit: Duration,
    inputs: EffectReports,
) {
    tokio::spawn(async move {
        let asked = async {
            match check {
                Some(check) => check.ask(&member).await,
                None => probe::connect(&member).await.map(drop),
            }
        };
        let answer = tokio::time::timeout(limit, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        let answer = EffectResult::Checked { attempt, answer };
        let _ = inputs.send(EffectReport { room, incarnation: member.id.incarnation, answer }).await;
    });
}

/// Removes what a process left, once its output is read.
pub(super) fn clean(room: usize, id: WorkerId, dir: Arc<RuntimeDir>, readers: Vec<Reading>, inputs: EffectReports) {
    tokio::spawn(async move {
        for reader in readers {
            // Readers are bounded in time; one that panicked has ended, too.
            let _ = reader.task.await;
        }
        let incarnation = id.incarnation;
        let removed = tokio::task::spawn_blocking(move || remove(&dir, &id).map_err(|e| format!("{id}: {e}"))).await;
        match removed {
            Ok(Err(e)) => log::error!("{e}"),
            Err(e) => log::error!("cleaning up after #{incarnation}: {e}"),
            Ok(Ok(())) => {}
        }
        let _ = inputs.send(EffectReport { room, incarnation, answer: EffectResult::Cleaned }).await;
    });
}

fn remove(dir: &RuntimeDir, id: &WorkerId) -> Result<(), Error> {
    // One that has left the group may still listen.
    strays::end_listeners(&dir.left_by(id)?);
    dir.remove_worker(id)
}

/// A seed nobody can guess, from the kernel.
pub(super) fn random_seed() -> u64 {
    let token = Token::random().map(|token| u64::from_str_radix(token.as_str().get(..16).unwrap_or("0"), 16));
    token.ok().and_then(Result::ok).unwrap_or_else(|| u64::from(std::process::id()))
}
