//! Children and effects that touch no process and no socket, with the signatures of the real ones.

use crate::pool::Member;
use crate::process::{Error, Exit, RuntimeDir};
use crate::supervisor::child::{Child, ChildHandle};
use crate::supervisor::effects::{Effects, HealthCheck, Start};
use crate::supervisor::handle::Host;
use crate::supervisor::messages::{AppId, EffectReport, EffectReports, EffectResult, Started};
use crate::supervisor::worker_record::OutputReader;
use crate::worker::WorkerId;
use async_trait::async_trait;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What was done to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    AskToEnd,
    Signal(i32),
    Kill,
    Release,
}

pub(super) struct FakeChild {
    pid: u32,
    /// The last word of its command.
    argument: String,
    calls: Mutex<Vec<Call>>,
    exit: watch::Sender<Option<Exit>>,
}

impl FakeChild {
    pub(super) fn exit(&self, exit: Exit) {
        self.exit.send_replace(Some(exit));
    }

    pub(super) fn argument(&self) -> &str {
        &self.argument
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn record(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }
}

/// Ends at every signal.
#[async_trait]
impl Child for FakeChild {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn start_time(&self) -> Option<u64> {
        Some(u64::from(self.pid) * 100)
    }

    fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    fn signal_group(&self, signal: i32) -> Result<(), Error> {
        self.record(Call::Signal(signal));
        self.exit(Exit::Code(0));
        Ok(())
    }

    fn kill_group(&self) -> Result<(), Error> {
        self.record(Call::Kill);
        self.exit(Exit::Signal { number: 9, core: false });
        Ok(())
    }

    fn ask_to_end(&self) {
        self.record(Call::AskToEnd);
    }

    fn release(&self) {
        self.record(Call::Release);
    }

    async fn wait(&self) -> Result<Exit, Error> {
        let exit = self.exit.subscribe().wait_for(Option::is_some).await.map(|exit| *exit);
        Ok(exit.ok().flatten().unwrap_or(Exit::Unknown))
    }
}

/// The machine on which fake children live. Their ids are above any that Linux gives.
#[derive(Clone)]
pub(super) struct Machine {
    children: Arc<Mutex<Vec<Arc<FakeChild>>>>,
    /// Commands whose last word is `late` fail when this is true.
    late: Arc<watch::Sender<bool>>,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine { children: Arc::default(), late: Arc::new(watch::Sender::new(false)) }
    }
}

const FIRST_PID: u32 = 1 << 23;

impl Machine {
    /// All children, in the order of their starts.
    pub(super) fn children(&self) -> Vec<Arc<FakeChild>> {
        self.children.lock().unwrap().clone()
    }

    pub(super) fn child(&self, pid: u32) -> Arc<FakeChild> {
        self.children().into_iter().find(|child| child.pid == pid).expect("a child of this id")
    }

    pub(super) fn fail_late_ones(&self) {
        self.late.send_replace(true);
    }

    /// A command that ends with `broken` cannot be started.
    async fn start(&self, argument: String) -> Result<ChildHandle, Error> {
        if argument == "late" {
            drop(self.late.subscribe().wait_for(|now| *now).await);
        }
        if argument == "broken" || argument == "late" {
            return Err(Error::Io { doing: argument, source: std::io::ErrorKind::NotFound.into() });
        }
        let mut children = self.children.lock().unwrap();
        let pid = FIRST_PID + children.len() as u32;
        let child = Arc::new(FakeChild { pid, argument, calls: Mutex::default(), exit: watch::Sender::new(None) });
        children.push(child.clone());
        Ok(child)
    }

    /// Runs `with` on this machine.
    pub(super) fn host<T>(&self, with: impl FnOnce(&Host<'_>) -> T) -> T {
        let effects = |reports| Box::new(FakeEffects { machine: self.clone(), reports }) as Box<dyn Effects>;
        let adopt = |pid, started, _| {
            let found = self.children().into_iter().find(|child| child.pid == pid && child.is_alive());
            let found = found.filter(|child| child.start_time() == Some(started));
            let gone = || Error::Io { doing: format!("adopting {pid}"), source: std::io::ErrorKind::NotFound.into() };
            found.map(|child| child as ChildHandle).ok_or_else(gone)
        };
        with(&Host { adopt: &adopt, effects: &effects })
    }
}

/// Whatever is asked for works, at once.
struct FakeEffects {
    machine: Machine,
    reports: EffectReports,
}

impl FakeEffects {
    fn report(&self, app: AppId, worker: &WorkerId, result: EffectResult) {
        let (reports, incarnation) = (self.reports.clone(), worker.incarnation);
        tokio::spawn(async move { reports.send(EffectReport { app, incarnation, result }).await });
    }
}

impl Effects for FakeEffects {
    fn start(&self, start: Start) {
        let (reports, machine) = (self.reports.clone(), self.machine.clone());
        tokio::spawn(async move {
            if let Some(written) = start.written {
                written.wait().await;
            }
            let started = machine.start(start.spec.command.last().cloned().unwrap_or_default()).await;
            let started = started.map(|child| Started { child, output: Vec::new() });
            let result = EffectResult::Started(started);
            reports.send(EffectReport { app: start.app, incarnation: start.id.incarnation, result }).await
        });
    }

    fn probe(&self, app: AppId, attempt: u32, member: Arc<Member>) {
        self.report(app, &member.id, EffectResult::Probed { attempt, outcome: Ok(()) });
    }

    fn check(&self, app: AppId, attempt: u32, member: Arc<Member>, _check: HealthCheck) {
        self.report(app, &member.id, EffectResult::Checked { attempt, outcome: Ok(()) });
    }

    fn clean(&self, app: AppId, id: WorkerId, _dir: Arc<RuntimeDir>, _readers: Vec<OutputReader>) {
        self.report(app, &id, EffectResult::Cleaned);
    }

    fn reports(&self) -> EffectReports {
        self.reports.clone()
    }
}
