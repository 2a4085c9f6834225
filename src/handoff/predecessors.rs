//! Processes that handed over and still finish requests. Their late connections are adopted here. A successor gets the
//! conversations themselves, so they do not depend on how long this process lives.

use super::message::Message;
use super::roles::Successor;
use super::wire::{Channel, Frame};
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// More than there can be, unless every process still finishes requests after this many upgrades.
const MAX_PREDECESSORS: usize = 64;
/// For a message that is just being read from one of them. One that needs longer finishes alone.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(2);

/// The conversation with one of them.
pub(super) struct DrainingPredecessor {
    pub(super) pid: u32,
    pub(super) channel: Channel,
    /// What it still uses of the workers, as it said last.
    pub(super) in_use: Value,
}

impl DrainingPredecessor {
    /// As a process passes it on that has handed over to us.
    pub(super) fn passed_on(pid: u32, in_use: Value, mut fds: Vec<OwnedFd>) -> std::io::Result<DrainingPredecessor> {
        let fd = fds.pop().ok_or_else(|| std::io::Error::other("its descriptor is missing"))?;
        Ok(DrainingPredecessor { pid, channel: Channel::from_std(fd.into())?, in_use })
    }
}

/// All these conversations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DrainingPredecessors {
    leave: Arc<watch::Sender<bool>>,
    passing: Arc<Mutex<Option<Passing>>>,
}

/// Where conversations go to that are passed on; who holds a sender may still have one.
type Passing = (mpsc::Sender<DrainingPredecessor>, mpsc::Receiver<DrainingPredecessor>);

impl DrainingPredecessors {
    pub(crate) fn new() -> DrainingPredecessors {
        let passing = Arc::new(Mutex::new(Some(mpsc::channel(MAX_PREDECESSORS))));
        DrainingPredecessors { leave: Arc::new(watch::Sender::new(false)), passing }
    }

    /// Takes in what comes from `predecessor`, whose use of the workers is known already, until it ends or is passed on.
    pub(super) fn listen<S: Successor>(&self, predecessor: DrainingPredecessor, successor: Arc<S>) {
        let passing = self.passing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((pass, _)) = &*passing {
            tokio::spawn(hear(predecessor, successor, self.leave.subscribe(), pass.clone()));
        }
    }

    /// Ends all of it, between two messages of each. To be asked once.
    pub(super) async fn take(&self) -> Vec<DrainingPredecessor> {
        let passing = self.passing.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some((pass, mut passed)) = passing else { return Vec::new() };
        drop(pass);
        self.leave.send_replace(true);
        let mut predecessors = Vec::new();
        let all = async {
            while let Some(predecessor) = passed.recv().await {
                predecessors.push(predecessor);
            }
        };
        if timeout(PASS_ON_TIMEOUT, all).await.is_err() {
            log::warn!("a former proxy process is in the middle of a message and finishes alone");
        }
        predecessors
    }
}

/// Boxed, since it begins others of its kind.
fn hear<S: Successor>(
    mut predecessor: DrainingPredecessor,
    successor: Arc<S>,
    mut leave: watch::Receiver<bool>,
    pass: mpsc::Sender<DrainingPredecessor>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        loop {
            tokio::select! {
                biased;
                () = asked(&mut leave) => {
                    successor.report_in_use(predecessor.pid, Value::Null);
                    let _ = pass.send(predecessor).await;
                    return;
                }
                () = predecessor.channel.stirs() => {}
            }
            match predecessor.channel.hear().await {
                Ok(Frame::Connections(connections)) => successor.adopt(connections).await,
                Ok(Frame::Message(Message::InUse { in_use }, _)) => {
                    predecessor.in_use = in_use.clone();
                    successor.report_in_use(predecessor.pid, in_use);
                }
                Ok(Frame::Message(Message::DrainingPredecessor { pid, in_use }, fds)) => {
                    match DrainingPredecessor::passed_on(pid, in_use, fds) {
                        Ok(predecessor) => {
                            successor.report_in_use(pid, predecessor.in_use.clone());
                            tokio::spawn(hear(predecessor, successor.clone(), leave.clone(), pass.clone()));
                        }
                        Err(e) => log::warn!("process {pid} finishes alone: {e}"),
                    }
                }
                Ok(Frame::Message(..) | Frame::Secret(_)) => {}
                Ok(Frame::End) => break,
                Err(e) => {
                    log::warn!("no more connections come from process {}: {e}", predecessor.pid);
                    break;
                }
            }
        }
        successor.report_in_use(predecessor.pid, Value::Null);
    })
}

async fn asked(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending().await
    }
}
