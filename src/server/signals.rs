//! What the process's signals do.

use super::herald::Herald;
use super::notify;
use super::reload::Reloader;
use super::stop::Stopper;
use crate::supervisor::Control;
use async_trait::async_trait;
use pingora_core::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::signal::unix::{Signal, SignalKind, signal};

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
    pub(super) reloader: Arc<Reloader>,
    pub(super) stop: Arc<Stopper>,
    /// Taken when the server runs; so are the signals, where they are listened to already.
    pub(super) herald: Mutex<Option<Herald>>,
    pub(super) listening: Mutex<Option<Listening>>,
    pub(super) failed: Arc<AtomicBool>,
}

impl Signals {
    async fn wait(&self) -> Result<(), String> {
        let early = self.listening.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let listening = early.map_or_else(Listening::new, Ok);
        let Listening { mut terminate, mut interrupt, mut quit, mut hangup, mut user1 } =
            listening.map_err(|error| format!("signals cannot be received: {error}"))?;
        let herald = self.herald.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        herald.map(|herald| tokio::spawn(herald.run()));
        loop {
            tokio::select! {
                () = next(&mut terminate) => self.stop.signalled("SIGTERM"),
                () = next(&mut interrupt) => self.stop.signalled("SIGINT"),
                () = next(&mut quit) => log::warn!("SIGQUIT: no successor is ready to take over; going on"),
                () = next(&mut hangup) => self.reload(),
                () = next(&mut user1) => {
                    log::info!("SIGUSR1: opening log files anew");
                    self.control.logs().reopen();
                }
                outcome = self.control.finished() => {
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
            match reloader.reload().await {
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
