//! Taking over the workers of another proxy: of one that was killed, or of one that still runs and
//! hands them over.

use super::control_listener::{ControlDoor, number};
use super::estate::{self, Partial, Revived};
use super::keeper::Keeper;
use super::messages::{Order, Wanted, What};
use super::room::Room;
use crate::fleet::{Event, State};
use crate::pool::{Member, Seat};
use crate::process::control::{Report, Reported};
use crate::process::output::{Rest, Stream, open_reader};
use crate::process::{Error, Exit, Process, worker_socket};
use crate::worker::{Incarnation, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// For workers to dial in again; those that hang do so later.
const REDIAL: Duration = Duration::from_secs(5);
/// For one look whether a socket answers, and how often it is looked at.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: u32 = 4;
/// Reports that are kept while nothing is decided.
const HELD: usize = 10_000;

/// How a successor and the one before it agree; see [`super::Supervisor::heir`].
pub(crate) struct Heir {
    /// The control socket is bound: workers that are hung up on dial in here.
    pub(crate) bound: oneshot::Receiver<()>,
    /// The workers are there, or why they cannot be taken over.
    pub(crate) ready: oneshot::Receiver<Result<(), String>>,
    /// From here on they are ours. Dropped: never.
    pub(crate) commit: oneshot::Sender<Vec<Partial>>,
}

/// The supervisor's ends.
pub(super) struct Ends {
    bound: oneshot::Sender<()>,
    ready: oneshot::Sender<Result<(), String>>,
    commit: oneshot::Receiver<Vec<Partial>>,
}

pub(super) fn pair() -> (Heir, Ends) {
    let (bound, bound_out) = oneshot::channel();
    let (ready, ready_out) = oneshot::channel();
    let (commit, commit_out) = oneshot::channel();
    (Heir { bound: bound_out, ready: ready_out, commit }, Ends { bound, ready, commit: commit_out })
}

/// What a keeper is to take up at its start.
pub(super) struct Legacy {
    connected: Vec<WorkerId>,
    /// What is configured now.
    configured: Vec<Wanted>,
    /// Of one that still runs.
    ends: Option<Ends>,
}

impl Keeper {
    /// Puts the workers of an estate in the place of those that would be started.
    pub(super) fn inherit(&mut self, revived: Revived, configured: Vec<Wanted>, ends: Option<Ends>) {
        let Revived { rooms, epoch, tags, connected, alarms } = revived;
        (self.epoch, self.tags) = (epoch, tags);
        self.alerts.restore(alarms, |app| rooms.iter().any(|room| *room.name == *app));
        self.measured = self.now();
        for mut room in rooms {
            room.fleet.count_from(self.dir.first_incarnation(&room.name));
            estate::expect(&room, &self.registry);
            self.rooms.insert(self.next_room, room);
            self.next_room += 1;
        }
        self.legacy = Some(Legacy { connected, configured, ends });
    }

    /// Begins with the workers of another; false when that one keeps them.
    pub(super) async fn take_over(&mut self, legacy: Legacy) -> Result<bool, Error> {
        let Legacy { connected, configured, ends } = legacy;
        self.listen()?;
        // The directory's lock says that no other lives, unless it hands over.
        self.open_entrances(ends.is_some())?;
        let mut held = Vec::new();
        let partials = match ends {
            None => Vec::new(),
            Some(ends) => match self.stand_by(connected, ends, &mut held).await {
                Some(partials) => partials,
                None => return Ok(false),
            },
        };
        self.tools = Some(self.equip()?);
        self.dir.own();
        // Those that have dialled in are told to the fleets below.
        self.await_redials();
        self.begin_with(partials);
        held.iter().for_each(|(id, report)| self.reported(id, report.clone()));
        let (reply, answer) = oneshot::channel();
        self.obey(Order { what: What::Reload(configured), reply });
        tokio::spawn(async move {
            match answer.await {
                Ok(Ok(text)) => log::info!("took over: {text}"),
                Ok(Err(why)) => log::error!("took over, but: {why}"),
                Err(_) => {}
            }
        });
        Ok(true)
    }

    /// Decides nothing, but lets the workers dial in and traffic reach them, until the other has let go.
    async fn stand_by(
        &mut self,
        connected: Vec<WorkerId>,
        ends: Ends,
        held: &mut Vec<Reported>,
    ) -> Option<Vec<Partial>> {
        let Ends { bound, ready, mut commit } = ends;
        self.show_seats().await;
        self.show_since(Some(self.epoch));
        // Who asked may be gone, which `commit` tells.
        let _ = bound.send(());
        let mut missing: BTreeSet<WorkerId> = connected.into_iter().collect();
        let limit = sleep(REDIAL);
        tokio::pin!(limit);
        while !missing.is_empty() {
            tokio::select! {
                biased;
                early = &mut commit => return early.ok(),
                Some(report) = self.reports.recv(), if held.len() < HELD => {
                    if matches!(report.1, Report::Hello { .. }) {
                        missing.remove(&report.0);
                    }
                    hold(held, report);
                }
                Some(join) = self.joins.recv() => self.join(join, false),
                () = &mut limit => {
                    let names: Vec<String> = missing.iter().map(WorkerId::to_string).collect();
                    log::warn!("going on without these, which have not dialled in again: {}", names.join(", "));
                    break;
                }
            }
        }
        let seen = look_at_sockets(self.serving()).await;
        let _ = ready.send(seen);
        loop {
            tokio::select! {
                biased;
                committed = &mut commit => return committed.ok(),
                Some(report) = self.reports.recv(), if held.len() < HELD => hold(held, report),
                Some(join) = self.joins.recv() => self.join(join, false),
            }
        }
    }

    /// Traffic goes to the workers as it did, but for those that have died.
    async fn show_seats(&mut self) {
        for room in self.rooms.values_mut() {
            let mut seats = room.seats(false);
            seats.retain(|seat| {
                let external = room.fleet.is_external();
                room.workers.get(&seat.member.id.incarnation).is_some_and(|e| external || e.process.is_some())
            });
            for pool in room.pools() {
                pool.publish(seats.clone()).await;
            }
        }
    }

    /// The workers that serve, as they are known.
    fn serving(&self) -> Vec<(Process, Arc<Member>)> {
        let of = |room: &Room| {
            let seat = |seat: Seat| {
                let process = room.workers.get(&seat.member.id.incarnation)?.process.clone()?;
                Some((process, seat.member))
            };
            room.seats(false).into_iter().filter_map(seat).collect::<Vec<_>>()
        };
        self.rooms.values().flat_map(of).collect()
    }

    /// Watches and reads the processes, and tells the fleets what became of them meanwhile.
    fn begin_with(&mut self, partials: Vec<Partial>) {
        let mut partials: BTreeMap<(String, u32, Stream), Vec<u8>> =
            partials.into_iter().map(|p| ((p.app, p.incarnation, p.stream), p.bytes)).collect();
        self.tell_all(Event::Tick);
        for at in self.rooms.keys().copied().collect::<Vec<_>>() {
            let Some(room) = self.rooms.get(&at) else { continue };
            let external = room.fleet.is_external();
            let workers: Vec<(Incarnation, Option<u32>, bool)> =
                room.fleet.workers().map(|w| (w.incarnation, w.pid, w.is_alive())).collect();
            for (incarnation, pid, alive) in workers {
                let app = room_name(self, at);
                let mut rest = |path: std::path::PathBuf, stream| {
                    let partial = partials.remove(&(app.clone(), incarnation.0, stream)).unwrap_or_default();
                    let opened = open_reader(&path);
                    opened.map(|pipe| Rest { pipe, partial }).map_err(|e| log::warn!("output is lost: {e}")).ok()
                };
                let Some(entry) = self.rooms.get(&at).and_then(|room| room.workers.get(&incarnation)) else { continue };
                let id = entry.id.clone();
                match entry.process.clone() {
                    Some(process) => {
                        let out = rest(self.dir.log_pipe(&id, Stream::Out), Stream::Out);
                        let err = rest(self.dir.log_pipe(&id, Stream::Err), Stream::Err);
                        let events = self.attach(at, incarnation, process, out, err);
                        if pid.is_none() {
                            events.into_iter().for_each(|event| self.tell(at, event));
                        }
                    }
                    // It has some time to dial in again.
                    None if external => {}
                    None if alive => self.missed_its_end(at, incarnation),
                    None => {}
                }
            }
        }
    }

    /// There is no process of a worker that had one, or was about to get one.
    fn missed_its_end(&mut self, at: usize, incarnation: Incarnation) {
        let Some(room) = self.rooms.get_mut(&at) else { return };
        let remains = room.workers.get_mut(&incarnation).and_then(|entry| entry.remains.take());
        let worker = room.fleet.workers().find(|worker| worker.incarnation == incarnation);
        let to_start = worker.filter(|worker| worker.pid.is_none() && worker.state == State::Starting);
        let to_start = to_start.map(|worker| worker.slot);
        if let Some(remains) = remains {
            // As when the leader of a group ends under our eyes.
            log::info!("{}: its process ended while no proxy watched; the rest of its group is killed", room.name);
            remains.kill().unwrap_or_else(|e| log::warn!("{e}"));
        } else if let Some(slot) = to_start {
            // Written down, and the proxy before came no further.
            return self.spawn(at, slot, incarnation);
        }
        if let Some(room) = self.rooms.get_mut(&at) {
            room.ended(incarnation, Some(Exit::Unknown));
        }
        let how = "ended while no proxy watched".to_owned();
        self.tell(at, Event::Exited { incarnation, how });
    }

    pub(super) fn listen(&mut self) -> Result<(), Error> {
        let path = self.dir.control_socket();
        let listener = crate::process::control::bind_over(&path, self.dir.is_shared())?;
        let serving = tokio::spawn(crate::process::control::serve(listener, self.registry.clone()));
        self.door = Some(ControlDoor { serving, file: number(&path), path });
        Ok(())
    }
}

fn room_name(keeper: &Keeper, at: usize) -> String {
    keeper.rooms.get(&at).map(|room| room.name.to_string()).unwrap_or_default()
}

/// Statistics come again every second.
fn hold(held: &mut Vec<Reported>, report: Reported) {
    if !matches!(report.1, Report::Stats(_) | Report::Message(_)) {
        held.push(report);
    }
}

/// Whether every worker that lives takes connections.
async fn look_at_sockets(workers: Vec<(Process, Arc<Member>)>) -> Result<(), String> {
    for (process, member) in workers {
        let mut looks = 0;
        while let Err(e) = accepts(&member).await {
            looks += 1;
            if !process.is_alive() {
                break;
            }
            if looks == LOOKS {
                return Err(format!("{}: its socket {} refuses: {e}", member.id, member.socket));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// An error says that nobody listens; one that is only busy does.
async fn accepts(member: &Member) -> std::io::Result<()> {
    use std::io::ErrorKind;
    // What else stands there is the health check's to find: no worker keeps us from taking over.
    match timeout(LOOK, worker_socket::connect(Path::new(&*member.socket), member.user)).await {
        Ok(Err(e)) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Err(e),
        _ => Ok(()),
    }
}
