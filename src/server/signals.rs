//! What the process's signals do.

use super::handover::Standing;
use super::reload::Reloader;
use super::upgrade::Upgrader;
use crate::supervisor::Control;
use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Ends the server when the supervisor has: nothing of it is left then.
pub(super) struct Signals {
    pub(super) control: Control,
    pub(super) reloader: Arc<Reloader>,
    pub(super) failed: Arc<AtomicBool>,
    pub(super) upgrader: Upgrader,
    pub(super) standing: Arc<watch::Sender<Standing>>,
}

const LAST_ANSWERS: Duration = Duration::from_millis(200);

impl Signals {
    async fn wait(&self) -> Result<(), String> {
        let listen = |kind| signal(kind).map_err(|error| format!("signals cannot be received: {error}"));
        let mut terminate = listen(SignalKind::terminate())?;
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut quit = listen(SignalKind::quit())?;
        let mut hangup = listen(SignalKind::hangup())?;
        let mut user1 = listen(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                () = next(&mut terminate) => self.stop("SIGTERM"),
                () = next(&mut interrupt) => self.stop("SIGINT"),
                () = next(&mut quit) => self.hand_over(),
                () = next(&mut hangup) => self.reload(),
                () = next(&mut user1) => {
                    log::info!("SIGUSR1: opening log files anew");
                    self.control.logs().reopen();
                }
                () = self.departed() => return self.depart().await,
                outcome = self.control.finished(), if !self.has_departed() => return outcome,
            }
        }
    }

    /// In a task of its own: a stop, or the next reload, must not wait for this one.
    fn reload(&self) {
        log::info!("SIGHUP: reloading");
        let reloader = self.reloader.clone();
        tokio::spawn(async move {
            match reloader.reload().await {
                Ok(outcome) => log::info!("reloaded: {outcome}"),
                Err(why) => log::error!("reload: {why}"),
            }
        });
    }

    /// In a task of its own, as a reload.
    fn hand_over(&self) {
        let upgrader = self.upgrader.clone();
        tokio::spawn(async move {
            match upgrader.hand_over().await {
                Ok(outcome) => log::info!("SIGQUIT: {outcome}"),
                Err(why) => log::warn!("SIGQUIT: {why}; going on"),
            }
        });
    }

    fn has_departed(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::Ceded(_) | Standing::Empty | Standing::Failed(_))
    }

    /// Ends when this process owns nothing any more, or never will.
    async fn departed(&self) {
        let gone = |standing: &Standing| matches!(standing, Standing::Ceded(_) | Standing::Empty | Standing::Failed(_));
        if self.standing.subscribe().wait_for(gone).await.is_err() {
            std::future::pending().await
        }
    }

    /// Finishes what could not go to the successor.
    async fn depart(&self) -> Result<(), String> {
        let mut standing = self.standing.subscribe();
        let end = |standing: &Standing| matches!(standing, Standing::Empty | Standing::Failed(_));
        let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let ended = tokio::select! {
            ended = standing.wait_for(end) => ended.map(|standing| standing.clone()),
            () = next(&mut terminate) => return Ok(log::info!("SIGTERM: leaving what is not finished")),
            () = next(&mut interrupt) => return Ok(log::info!("SIGINT: leaving what is not finished")),
        };
        match ended {
            Ok(Standing::Failed(why)) => Err(why),
            _ => {
                // Commands that asked for this read their answers.
                tokio::time::sleep(LAST_ANSWERS).await;
                log::info!("everything is with the successor");
                Ok(())
            }
        }
    }

    fn stop(&self, signal: &str) {
        log::info!("{signal}: stopping; once more stops at once");
        self.control.stop();
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
