//! Notices on their way to an HTTP server or a program: one task each, with a bounded queue, retries and limits.

use super::book::Notice;
use super::webhook::{Refused, Webhook};
use crate::process::files;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// Notices that may wait.
const QUEUE: usize = 256;
/// The pause before a second try, doubled with each one up to the longest.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(60);
/// For the program to end.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Outlets(pub(super) Vec<Outlet>);

/// The near end of one way out.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) name: &'static str,
    queue: mpsc::Sender<Arc<Notice>>,
    pub(super) counts: Arc<Counts>,
}

/// Notices since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: AtomicU64,
    /// Given up after all retries.
    pub(super) failed: AtomicU64,
    /// Found the queue full.
    pub(super) dropped: AtomicU64,
}

#[derive(Clone, Debug)]
pub(super) enum Way {
    Webhook(Arc<Webhook>),
    /// Program and arguments.
    Exec(Arc<[String]>),
}

impl Outlet {
    /// Does not wait.
    pub(super) fn offer(&self, notice: &Arc<Notice>) {
        if self.queue.try_send(notice.clone()).is_err() && self.counts.dropped.fetch_add(1, Relaxed) == 0 {
            log::error!("alarms: the {} is so slow that notices are dropped", self.name);
        }
    }
}

/// Nothing is begun while `paused` says true.
pub(super) fn start(name: &'static str, way: Way, paused: watch::Receiver<bool>) -> (Outlet, AbortHandle) {
    let (queue, mut notices) = mpsc::channel::<Arc<Notice>>(QUEUE);
    let counts = Arc::new(Counts::default());
    let ours = counts.clone();
    let task = tokio::spawn(async move {
        while let Some(notice) = notices.recv().await {
            match way.deliver(&notice, paused.clone()).await {
                Ok(()) => ours.delivered.fetch_add(1, Relaxed),
                Err(why) => {
                    log::error!("alarms: the {name} did not take {} {}: {why}", notice.status.as_str(), notice.key);
                    ours.failed.fetch_add(1, Relaxed)
                }
            };
        }
    });
    (Outlet { name, queue, counts }, task.abort_handle())
}

impl Way {
    async fn deliver(&self, notice: &Notice, mut paused: watch::Receiver<bool>) -> Result<(), String> {
        let body = notice.json();
        // Who sends is there as long as its tasks are.
        let mut allowed = async || drop(paused.wait_for(|paused| !paused).await);
        match self {
            Way::Exec(command) => {
                allowed().await;
                exec(command, notice, &body).await
            }
            Way::Webhook(webhook) => {
                let mut pause = FIRST_RETRY_DELAY;
                let mut left = webhook.retries;
                loop {
                    allowed().await;
                    match webhook.clone().post(&body).await {
                        Ok(()) => return Ok(()),
                        Err(Refused { why, again }) if left == 0 || !again => return Err(why),
                        Err(Refused { why, .. }) => log::debug!("alarms: the webhook is tried again: {why}"),
                    }
                    left -= 1;
                    // Others may be waiting for the same server.
                    sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(LONGEST_RETRY_DELAY);
                }
            }
        }
    }
}

/// Runs the program, which gets the notice on its standard input and in `ALARM`, and parts of it in `ALARM_...`.
async fn exec(command: &[String], notice: &Notice, body: &str) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("the command is empty")?;
    let key = &notice.key;
    let slot = key.slot.map(|slot| slot.to_string()).unwrap_or_default();
    // An environment string must have no NUL and be of bounded length.
    let clean = |text: &str| text.chars().filter(|c| *c != '\0').collect::<String>();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("ALARM", clean(body))
        .env("ALARM_STATUS", notice.status.as_str())
        .env("ALARM_KIND", key.kind.as_str())
        .env("ALARM_APP", &*key.app)
        .env("ALARM_SLOT", slot)
        .env("ALARM_DETAIL", clean(&notice.detail))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .process_group(0)
        .kill_on_drop(true);
    files::limit_as_at_start(command.as_std_mut());
    let mut child = command.spawn().map_err(|e| format!("{program} cannot be started: {e}"))?;
    let group = Group(child.id());
    let outcome = timeout(EXEC_TIMEOUT, run(&mut child, body)).await;
    match outcome {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
        Ok(Err(e)) => Err(format!("{program}: {e}")),
        Err(_) => {
            drop(group);
            // Reaped, so that its number is not ours any more.
            let _ = child.wait().await;
            Err(format!("{program} did not end within {EXEC_TIMEOUT:?} and was killed"))
        }
    }
}

async fn run(child: &mut Child, body: &str) -> std::io::Result<std::process::ExitStatus> {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read has all it needs in its environment.
        let _ = stdin.write_all(format!("{body}\n").as_bytes()).await;
    }
    child.wait().await
}

/// Kills what is left of a program's process group, however its run ended.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // Gone, most of the time.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
