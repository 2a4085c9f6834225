//! Those before us that still finish something. What comes late from them is taken in here; whoever takes over from us
//! gets the conversations themselves, so nothing of theirs depends on how long we last.

use super::message::Message;
use super::take::Successor;
use super::wire::{Channel, Frame};
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// More than there can be, unless each process still finishes something after so many upgrades.
const MOST: usize = 64;
/// For what is just coming from one of them. One that needs longer finishes alone.
const PASS_ON: Duration = Duration::from_secs(2);

/// The conversation with one of them.
pub(super) struct Elder {
    pub(super) pid: u32,
    pub(super) channel: Channel,
    /// What it still uses of the workers, as it said last.
    pub(super) lent: Value,
}

impl Elder {
    /// As a process passes it on that has handed over to us.
    pub(super) fn passed_on(pid: u32, lent: Value, mut fds: Vec<OwnedFd>) -> std::io::Result<Elder> {
        let fd = fds.pop().ok_or_else(|| std::io::Error::other("its descriptor is missing"))?;
        Ok(Elder { pid, channel: Channel::from_std(fd.into())?, lent })
    }
}

/// All these conversations. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Elders {
    leave: Arc<watch::Sender<bool>>,
    passing: Arc<Mutex<Option<Passing>>>,
}

/// Where conversations go to that are passed on; who holds a sender may still have one.
type Passing = (mpsc::Sender<Elder>, mpsc::Receiver<Elder>);

impl Elders {
    pub(crate) fn new() -> Elders {
        let passing = Arc::new(Mutex::new(Some(mpsc::channel(MOST))));
        Elders { leave: Arc::new(watch::Sender::new(false)), passing }
    }

    /// Takes in what comes from `elder`, whose use of the workers is known already, until it ends or is passed on.
    pub(super) fn listen<S: Successor>(&self, elder: Elder, heir: Arc<S>) {
        let passing = self.passing.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((pass, _)) = &*passing {
            tokio::spawn(hear(elder, heir, self.leave.subscribe(), pass.clone()));
        }
    }

    /// Ends all of it, between two messages of each. To be asked once.
    pub(super) async fn take(&self) -> Vec<Elder> {
        let passing = self.passing.lock().unwrap_or_else(|e| e.into_inner()).take();
        let Some((pass, mut passed)) = passing else { return Vec::new() };
        drop(pass);
        self.leave.send_replace(true);
        let mut elders = Vec::new();
        let all = async {
            while let Some(elder) = passed.recv().await {
                elders.push(elder);
            }
        };
        if timeout(PASS_ON, all).await.is_err() {
            log::warn!("a former proxy process is in the middle of a message and finishes alone");
        }
        elders
    }
}

/// Boxed, since it begins others of its kind.
fn hear<S: Successor>(
    mut elder: Elder,
    heir: Arc<S>,
    mut leave: watch::Receiver<bool>,
    pass: mpsc::Sender<Elder>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        loop {
            tokio::select! {
                biased;
                () = asked(&mut leave) => {
                    heir.lend(elder.pid, Value::Null);
                    let _ = pass.send(elder).await;
                    return;
                }
                () = elder.channel.stirs() => {}
            }
            match elder.channel.hear().await {
                Ok(Frame::Parcels(parcels)) => heir.settle(parcels).await,
                Ok(Frame::Message(Message::Lent { lent }, _)) => {
                    elder.lent = lent.clone();
                    heir.lend(elder.pid, lent);
                }
                Ok(Frame::Message(Message::Elder { pid, lent }, fds)) => match Elder::passed_on(pid, lent, fds) {
                    Ok(elder) => {
                        heir.lend(pid, elder.lent.clone());
                        tokio::spawn(hear(elder, heir.clone(), leave.clone(), pass.clone()));
                    }
                    Err(e) => log::warn!("process {pid} finishes alone: {e}"),
                },
                Ok(Frame::Message(..)) => {}
                Ok(Frame::End) => break,
                Err(e) => {
                    log::warn!("no more connections come from process {}: {e}", elder.pid);
                    break;
                }
            }
        }
        heir.lend(elder.pid, Value::Null);
    })
}

async fn asked(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        std::future::pending().await
    }
}
