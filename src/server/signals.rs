//! What the process's signals do.

use super::reload::Reloader;
use crate::supervisor::Control;
use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ends the server when the supervisor has: nothing of it is left then.
pub(super) struct Signals {
    pub(super) control: Control,
    pub(super) reloader: Arc<Reloader>,
    pub(super) failed: Arc<AtomicBool>,
}

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
                () = next(&mut quit) => log::warn!("SIGQUIT: no successor is ready to take over; going on"),
                () = next(&mut hangup) => self.reload(),
                () = next(&mut user1) => {
                    log::info!("SIGUSR1: opening log files anew");
                    self.control.logs().reopen();
                }
                outcome = self.control.finished() => return outcome,
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
