//! What the process's signals do.

use super::background::Waiting;
use super::handover::HandoffRole;
use super::health::ProxyHealth;
use super::notify;
use super::reload::{Reloader, Wish};
use super::shutdown::GracefulShutdown;
use super::systemd::SystemdNotifier;
use super::upgrade::Upgrader;
use crate::gateway::ProxyService;
use crate::process;
use crate::supervisor::Control;
use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The signals that are listened to. Once they are, none ends the process by itself.
pub(super) struct Listening {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Listening {
    fn new() -> std::io::Result<Listening> {
        Ok(Listening {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Before anything is started that a signal must not leave behind. What comes from here on is told to the
    /// runtime that listens later.
    pub(super) fn early() -> Result<Listening, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listening = runtime.and_then(|runtime| runtime.block_on(async { Listening::new() }));
        listening.map_err(|error| format!("signals cannot be received: {error}"))
    }
}

/// Ends the server when the supervisor has: nothing of it is left then.
pub(super) struct Signals {
    pub(super) control: Control,
    pub(super) front: ProxyService,
    pub(super) reloader: Arc<Reloader>,
    pub(super) stop: Arc<GracefulShutdown>,
    /// HandoffClient when the server runs; so are the signals, where they are listened to already.
    pub(super) systemd: Mutex<Option<SystemdNotifier>>,
    /// The command that started us in the background, where it waits.
    pub(super) waiting: Mutex<Option<Waiting>>,
    pub(super) health: ProxyHealth,
    pub(super) listening: Mutex<Option<Listening>>,
    pub(super) failed: Arc<AtomicBool>,
    pub(super) upgrader: Upgrader,
    pub(super) role: Arc<watch::Sender<HandoffRole>>,
}

/// A stop that has begun is not put off.
pub(super) const STOPPING: &str = "the proxy is stopping, and hands over to nobody";
/// For commands' answers to leave.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);

impl Signals {
    async fn wait(&self) -> Result<(), String> {
        let early = self.listening.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let listening = early.map_or_else(Listening::new, Ok);
        let Listening { mut terminate, mut interrupt, mut quit, mut hangup, mut user1 } =
            listening.map_err(|error| format!("signals cannot be received: {error}"))?;
        let systemd = self.systemd.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        systemd.map(|systemd| tokio::spawn(systemd.run()));
        let waiting = self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        waiting.map(|waiting| tokio::spawn(waiting.run(self.health.clone(), self.stop.clone())));
        let front = self.front.clone();
        tokio::spawn(async move { front.flush_access_log().await });
        loop {
            tokio::select! {
                () = next(&mut terminate) => self.stop.signalled("SIGTERM"),
                () = next(&mut interrupt) => self.stop.signalled("SIGINT"),
                () = next(&mut quit) => self.hand_over(),
                () = next(&mut hangup) => self.reload(),
                () = next(&mut user1) => {
                    log::info!("SIGUSR1: opening log files anew");
                    self.control.logs().reopen();
                    self.front.reopen_access_log();
                }
                () = self.departed() => return self.depart().await,
                outcome = self.control.finished() => {
                    // A supervisor that has handed over ends, too: what is left here must be finished all the same.
                    if self.has_departed() {
                        return self.depart().await;
                    }
                    self.stop.last_answers().await;
                    return outcome;
                }
            }
        }
    }

    /// In a task of its own: a stop, or the next reload, must not wait for this one.
    fn reload(&self) {
        log::info!("SIGHUP: reloading");
        notify::reloading();
        let reloader = self.reloader.clone();
        tokio::spawn(async move {
            match reloader.reload(Wish::default()).await {
                Ok(outcome) => {
                    log::info!("reloaded: {outcome}");
                    notify::ready(&format!("reloaded: {outcome}"));
                }
                Err(why) => {
                    log::error!("reload: {why}");
                    notify::ready(&format!("reload: {why}"));
                }
            }
        });
    }

    /// In a task of its own, as a reload.
    fn hand_over(&self) {
        if self.stop.has_begun() {
            return log::warn!("SIGQUIT: {STOPPING}");
        }
        let upgrader = self.upgrader.clone();
        tokio::spawn(async move {
            match upgrader.hand_over().await {
                Ok(outcome) => log::info!("SIGQUIT: {outcome}"),
                Err(why) => log::warn!("SIGQUIT: {why}; going on"),
            }
        });
    }

    fn has_departed(&self) -> bool {
        self.role.borrow().is_gone()
    }

    /// Ends when this process owns nothing any more, or never will.
    async fn departed(&self) {
        if self.role.subscribe().wait_for(HandoffRole::is_gone).await.is_err() {
            std::future::pending().await
        }
    }

    /// Finishes what could not go to the successor.
    async fn depart(&self) -> Result<(), String> {
        if let HandoffRole::Released(successor) = *self.role.borrow()
            && self.stop.has_begun()
        {
            // It came while this process was handing over.
            log::info!("process {successor} is to stop, too");
            process::ask_to_end(successor);
        }
        let mut role = self.role.subscribe();
        let end = |role: &HandoffRole| matches!(role, HandoffRole::Finished | HandoffRole::Failed(_));
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let ended = tokio::select! {
            ended = role.wait_for(end) => ended.map(|role| role.clone()),
            () = next(&mut terminate) => Ok(HandoffRole::Finished),
            () = next(&mut interrupt) => Ok(HandoffRole::Finished),
        };
        match ended {
            Ok(HandoffRole::Failed(why)) => Err(why),
            _ => {
                // Commands that asked for this read their answers.
                let _ = tokio::time::timeout(LAST_ANSWERS_TIMEOUT, self.stop.listeners.own.emptied()).await;
                log::info!("the successor has everything, this process ends");
                Ok(())
            }
        }
    }
}

async fn next(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        if let Err(why) = self.wait().await {
            log::error!("{why}");
            self.failed.store(true, Ordering::Release);
        }
        ShutdownSignal::FastShutdown
    }
}
