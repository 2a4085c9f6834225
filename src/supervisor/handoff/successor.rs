//! Taking over the workers of another proxy: of one that was killed, or of one that still runs and
//! hands them over.

use super::super::app::ManagedApp;
use super::super::apps::Apps;
use super::super::child::ChildHandle;
use super::super::control_listener::ControlListener;
use super::super::messages::AppId;
use super::super::snapshot::{PartialLine, Restored, expect_workers};
use crate::fleet::{Event, State};
use crate::pool::{Member, Seat};
use crate::process::control::{Join, Report, Reported};
use crate::process::output::{Rest, Stream, open_reader_of};
use crate::process::{Error, Exit, worker_socket};
use crate::worker::{Incarnation, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

/// How long workers have to dial in again; those that hang do so later.
const REDIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one check may take whether a socket takes connections, how often a socket is checked, and how long after
/// each other.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);
const CHECKS: u32 = 4;
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Reports that are kept while nothing is decided.
const HELD_MAX: usize = 10_000;

/// How a successor and its predecessor agree; see [`Supervisor::successor`](crate::supervisor::Supervisor::successor).
pub(crate) struct TakeoverHandle {
    /// The control socket is bound: workers that are hung up on dial in here.
    pub(crate) bound: oneshot::Receiver<()>,
    /// The workers are there, or why they cannot be taken over.
    pub(crate) ready: oneshot::Receiver<Result<(), String>>,
    /// From here on they are ours. Dropped: never.
    pub(crate) commit: oneshot::Sender<Vec<PartialLine>>,
}

/// The supervisor's ends of a [`TakeoverHandle`].
pub(in crate::supervisor) struct TakeoverState {
    bound: oneshot::Sender<()>,
    ready: oneshot::Sender<Result<(), String>>,
    commit: oneshot::Receiver<Vec<PartialLine>>,
}

pub(in crate::supervisor) fn takeover_channels() -> (TakeoverHandle, TakeoverState) {
    let (bound, bound_out) = oneshot::channel();
    let (ready, ready_out) = oneshot::channel();
    let (commit, commit_out) = oneshot::channel();
    let handle = TakeoverHandle { bound: bound_out, ready: ready_out, commit };
    (handle, TakeoverState { bound, ready, commit: commit_out })
}

/// The workers of another proxy, to be taken over at the start.
pub(in crate::supervisor) struct Takeover {
    /// The workers that had a control channel.
    connected: Vec<WorkerId>,
    /// Of a predecessor that still runs.
    state: Option<TakeoverState>,
}

/// What a successor was given while it stood by.
pub(in crate::supervisor) struct TakenOver {
    partials: Vec<PartialLine>,
    held: Vec<Reported>,
}

/// Where workers report while a successor stands by.
pub(in crate::supervisor) struct Reports<'a> {
    pub(in crate::supervisor) reports: &'a mut mpsc::Receiver<Reported>,
    pub(in crate::supervisor) joins: &'a mut mpsc::Receiver<Join>,
}

impl Takeover {
    /// Puts the workers of a snapshot in the place of those that would be started.
    pub(in crate::supervisor) fn new(restored: Restored, state: Option<TakeoverState>, apps: &mut Apps) -> Takeover {
        let Restored { apps: old, epoch, tags, connected, alarms } = restored;
        (apps.clock.epoch, apps.tags) = (epoch, tags);
        apps.alarms.restore(alarms, |name| old.iter().any(|app| *app.name == *name));
        apps.clock.measured = apps.now();
        for mut app in old {
            app.fleet.count_from(apps.dir.first_incarnation(&app.name));
            expect_workers(&app, &apps.registry);
            apps.insert(app);
        }
        Takeover { connected, state }
    }

    /// Decides nothing, but lets the workers dial in and traffic reach them, until the predecessor has let go. `None`
    /// when that one keeps them. `show` is called when traffic can reach them.
    pub(in crate::supervisor) async fn stand_by(
        self,
        apps: &mut Apps,
        control: &mut ControlListener,
        reports: Reports<'_>,
        show: impl FnOnce(&Apps),
    ) -> Result<Option<TakenOver>, Error> {
        control.open(&apps.dir, &apps.registry)?;
        // The directory's lock says that no other lives, unless it hands over.
        apps.open_listeners(self.state.is_some())?;
        let Some(TakeoverState { bound, ready, commit }) = self.state else {
            return Ok(Some(TakenOver { partials: Vec::new(), held: Vec::new() }));
        };
        publish_seats(apps).await;
        show(apps);
        // The handle may be gone, which `commit` tells.
        let _ = bound.send(());
        let mut standing_by = StandBy { apps, reports, commit, held: Vec::new() };
        let partials = match standing_by.await_redials(self.connected).await {
            Some(early) => early,
            None => {
                let _ = ready.send(check_sockets(serving(standing_by.apps)).await);
                standing_by.await_commit().await
            }
        };
        Ok(partials.map(|partials| TakenOver { partials, held: standing_by.held }))
    }
}

struct StandBy<'a> {
    apps: &'a mut Apps,
    reports: Reports<'a>,
    commit: oneshot::Receiver<Vec<PartialLine>>,
    held: Vec<Reported>,
}

impl StandBy<'_> {
    /// Until these have dialled in again, or time is over. What the predecessor has decided, if it did so before.
    async fn await_redials(&mut self, connected: Vec<WorkerId>) -> Option<Option<Vec<PartialLine>>> {
        let mut missing: BTreeSet<WorkerId> = connected.into_iter().collect();
        let limit = sleep(REDIAL_TIMEOUT);
        tokio::pin!(limit);
        while !missing.is_empty() {
            tokio::select! {
                biased;
                early = &mut self.commit => return Some(early.ok()),
                Some(report) = self.reports.reports.recv(), if self.held.len() < HELD_MAX => {
                    if matches!(report.1, Report::Hello { .. }) {
                        missing.remove(&report.0);
                    }
                    self.hold(report);
                }
                Some(join) = self.reports.joins.recv() => self.apps.join(join, false),
                () = &mut limit => {
                    let names: Vec<String> = missing.iter().map(WorkerId::to_string).collect();
                    log::warn!("going on without these, which have not dialled in again: {}", names.join(", "));
                    break;
                }
            }
        }
        None
    }

    /// `None`: the predecessor goes on.
    async fn await_commit(&mut self) -> Option<Vec<PartialLine>> {
        loop {
            tokio::select! {
                biased;
                committed = &mut self.commit => return committed.ok(),
                Some(report) = self.reports.reports.recv(), if self.held.len() < HELD_MAX => self.hold(report),
                Some(join) = self.reports.joins.recv() => self.apps.join(join, false),
            }
        }
    }

    /// Statistics come again every second.
    fn hold(&mut self, report: Reported) {
        if !matches!(report.1, Report::Stats(_) | Report::Message(_)) {
            self.held.push(report);
        }
    }
}

impl TakenOver {
    /// Watches and reads the processes, and tells the fleets what has become of them meanwhile.
    pub(in crate::supervisor) fn begin(self, apps: &mut Apps) {
        apps.dir.take_ownership();
        // Workers that have dialled in are told to the fleets below.
        apps.await_redials();
        apps.handle_all(Event::Tick);
        let partials = self.partials.into_iter().map(|line| ((line.app, line.incarnation, line.stream), line.bytes));
        let mut partials: Partials = partials.collect();
        for id in apps.ids() {
            let workers: Vec<_> = apps.get(id).into_iter().flat_map(|app| app.fleet.workers()).collect();
            let workers: Vec<_> = workers.into_iter().map(|w| (w.incarnation, w.pid, w.is_alive())).collect();
            for (incarnation, pid, alive) in workers {
                begin_worker(apps, id, incarnation, &mut partials, pid.is_none(), alive);
            }
        }
        self.held.into_iter().for_each(|(id, report)| apps.observe_report(&id, report));
    }
}

/// Beginnings of lines, by app, incarnation and stream.
type Partials = BTreeMap<(String, u32, Stream), Vec<u8>>;

/// `is_new`: its fleet does not know yet that it was started.
fn begin_worker(
    apps: &mut Apps,
    id: AppId,
    incarnation: Incarnation,
    partials: &mut Partials,
    is_new: bool,
    alive: bool,
) {
    let Some(app) = apps.get(id) else { return };
    let external = app.fleet.is_external();
    let Some(record) = app.workers.get(&incarnation) else { return };
    match record.child.clone() {
        Some(child) => {
            let pid = child.pid();
            let output = [Stream::Out, Stream::Err].into_iter().filter_map(|stream| {
                let partial = partials.remove(&(app.name.to_string(), incarnation.0, stream)).unwrap_or_default();
                let opened = open_reader_of(pid, &apps.dir.log_pipe(&record.id, stream), stream);
                let pipe = opened.map_err(|e| log::warn!("output is lost: {e}")).ok()?;
                Some((stream, Rest { pipe, partial }))
            });
            let output = output.collect();
            let events = apps.attach(id, incarnation, child, output);
            if is_new {
                events.into_iter().for_each(|event| apps.handle(id, event));
            }
        }
        // It has some time to dial in again.
        None if external => {}
        None if alive => missed_exit(apps, id, incarnation),
        None => {}
    }
}

/// There is no process of a worker that had one, or was about to get one.
fn missed_exit(apps: &mut Apps, id: AppId, incarnation: Incarnation) {
    let Some(app) = apps.get_mut(id) else { return };
    let orphans = app.workers.get_mut(&incarnation).and_then(|record| record.orphans.take());
    let worker = app.fleet.workers().find(|worker| worker.incarnation == incarnation);
    let to_start = worker.filter(|worker| worker.pid.is_none() && worker.state == State::Starting);
    let to_start = to_start.map(|worker| worker.slot);
    if let Some(orphans) = orphans {
        // As when the leader of a group ends under our eyes.
        log::info!("{}: its process ended while no proxy watched; the rest of its group is killed", app.name);
        orphans.kill().unwrap_or_else(|e| log::warn!("{e}"));
    } else if let Some(slot) = to_start {
        // Written down, and the proxy before came no further.
        return apps.spawn(id, slot, incarnation, None);
    }
    app.ended(incarnation, Some(Exit::Unknown));
    let how = "ended while no proxy watched".to_owned();
    apps.handle(id, Event::Exited { incarnation, how });
}

/// Traffic goes to the workers as it did, but for those that have died.
async fn publish_seats(apps: &mut Apps) {
    for app in apps.by_id.values_mut() {
        let mut seats = app.seats(false);
        seats.retain(|seat| {
            let external = app.fleet.is_external();
            app.workers.get(&seat.member.id.incarnation).is_some_and(|record| external || record.child.is_some())
        });
        for pool in app.pools() {
            pool.publish(seats.clone()).await;
        }
    }
}

/// The workers that serve, as they are known.
fn serving(apps: &Apps) -> Vec<(ChildHandle, Arc<Member>)> {
    let of = |app: &ManagedApp| {
        let seat = |seat: Seat| {
            let child = app.workers.get(&seat.member.id.incarnation)?.child.clone()?;
            Some((child, seat.member))
        };
        app.seats(false).into_iter().filter_map(seat).collect::<Vec<_>>()
    };
    apps.by_id.values().flat_map(of).collect()
}

/// Whether every worker that lives takes connections.
async fn check_sockets(workers: Vec<(ChildHandle, Arc<Member>)>) -> Result<(), String> {
    for (child, member) in workers {
        let mut checks = 0;
        while let Err(e) = accepts(&member).await {
            checks += 1;
            if !child.is_alive() {
                break;
            }
            if checks == CHECKS {
                return Err(format!("{}: its socket {} refuses: {e}", member.id, member.socket));
            }
            sleep(CHECK_INTERVAL).await;
        }
    }
    Ok(())
}

/// An error says that nobody listens; one that is only busy does.
async fn accepts(member: &Member) -> std::io::Result<()> {
    use std::io::ErrorKind;
    // What else stands there is the health check's to find: no worker keeps us from taking over.
    let proving = worker_socket::prove(Path::new(&*member.socket), member.user, || member.pinned.get());
    match timeout(CHECK_TIMEOUT, proving).await {
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Err(e),
        Ok(Ok((_, pin))) => {
            member.pinned.set(pin);
            Ok(())
        }
        _ => Ok(()),
    }
}
