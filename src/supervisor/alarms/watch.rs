//! Measures once a second what the rules evaluator.

use super::handle::Alarms;
use super::rules::{AppSample, DiskSample, Measurements, WorkerSample};
use super::servers::differing;
use crate::fleet::State;
use crate::process::output::Logs;
use crate::supervisor::status::{AppStatus, Status, WorkerStatus};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// The disks are checked with every tenth measurement.
const DISK_CHECK_TURNS: u32 = 10;

/// Goes on for ever. The disk of `runtime` is watched for room, beside the log files.
pub(in crate::supervisor) async fn watch(
    alarms: Alarms,
    status: watch::Receiver<Arc<Status>>,
    logs: Arc<Logs>,
    runtime: PathBuf,
) {
    let mut disks = Disks::new(&logs, runtime);
    let mut tick = tokio::time::interval(MEASURE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        disks.look().await;
        let status = status.borrow().clone();
        let drops = logs.dropped();
        let apps = status.apps.iter().map(|app| sample(app, &drops)).collect();
        alarms.observe(&Measurements { apps, disks: disks.samples.clone() });
    }
}

fn sample(app: &AppStatus, drops: &[(Arc<str>, u64)]) -> AppSample {
    let living = |worker: &&WorkerStatus| !matches!(worker.state, State::Exited);
    AppSample {
        app: app.name.clone(),
        workers: app.workers.iter().filter(living).filter_map(worker).collect(),
        refused: app.queue.refused(),
        differing: differing(app),
        log_drops: drops.iter().find(|(name, _)| *name == app.name).map_or(0, |(_, n)| *n),
    }
}

fn worker(worker: &WorkerStatus) -> Option<WorkerSample> {
    worker.pid?;
    let said = worker.stats;
    Some(WorkerSample {
        slot: worker.slot,
        incarnation: worker.incarnation,
        memory: worker.used().map(|usage| usage.rss).or(said.map(|stats| stats.rss)),
        elu: said.map(|stats| stats.elu),
        lag: said.and_then(|stats| Duration::try_from_secs_f64(stats.lag_ms / 1000.0).ok()),
    })
}

/// Free room, looked up on another thread: a network file system may not answer for long.
struct Disks {
    places: Vec<(&'static str, bool, PathBuf)>,
    samples: Vec<DiskSample>,
    looking: Option<JoinHandle<Vec<DiskSample>>>,
    turn: u32,
}

impl Disks {
    fn new(logs: &Logs, runtime: PathBuf) -> Disks {
        let mut places = vec![("sockets and state beside", true, runtime)];
        places.extend(logs.directory().map(|dir| ("log files in", false, dir.to_owned())));
        Disks { places, samples: Vec::new(), looking: None, turn: 0 }
    }

    async fn look(&mut self) {
        if let Some(looking) = self.looking.take_if(|looking| looking.is_finished()) {
            self.samples = looking.await.unwrap_or_default();
        }
        if self.looking.is_none() && self.turn == 0 {
            let places = self.places.clone();
            self.looking = Some(tokio::task::spawn_blocking(move || places.iter().map(free).collect()));
        }
        self.turn = (self.turn + 1) % DISK_CHECK_TURNS;
    }
}

fn free((what, small, path): &(&'static str, bool, PathBuf)) -> DiskSample {
    // A log directory may not be there yet; then its disk is the one of what is above it.
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(there).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    DiskSample { what: format!("{what} {}", path.display()), small: *small, free }
}
