//! The graceful stop: nobody new, nothing cut, gone as soon as empty.
//!
//! Not ready at once; clients are served on for `pre_stop_delay`, and asked to leave; then the listeners close,
//! idle connections end, requests in flight are finished, WebSockets are closed, and workers end as soon as nothing
//! can come to them any more. At the limit everything that is left is cut off.

use super::health::ProxyHealth;
use super::listeners::Listeners;
use super::notify;
use super::sockets::Purpose;
use crate::config::{SHUTDOWN_MARGIN, Shutdown};
use crate::gateway::{Phase, ProxyService};
use crate::supervisor::Control;
use crate::worker::counted_being;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// For the listeners' tasks to end: they have nothing to wait for but clients that have connected already.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// For busy keep-alive connections to end by an answer.
const LEAVE_DELAY: Duration = Duration::from_millis(150);
/// Between two looks at whether a request may still come.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// For the last answers to leave, once no worker is left.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct GracefulShutdown {
    pub(super) front: ProxyService,
    pub(super) listeners: Listeners,
    pub(super) control: Control,
    pub(super) health: ProxyHealth,
    /// As the newest configuration says.
    pub(super) policy: Arc<ArcSwap<Shutdown>>,
    begun: AtomicBool,
    /// Everything ends at once.
    cut: AtomicBool,
}

impl GracefulShutdown {
    pub(super) fn new(
        front: ProxyService,
        listeners: Listeners,
        control: Control,
        health: ProxyHealth,
        policy: Arc<ArcSwap<Shutdown>>,
    ) -> GracefulShutdown {
        GracefulShutdown {
            front,
            listeners,
            control,
            health,
            policy,
            begun: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    /// A signal to stop: the first is for a graceful stop, the next for one at once.
    pub(super) fn signalled(self: &Arc<Self>, signal: &str) {
        if self.begun.swap(true, Ordering::AcqRel) {
            log::warn!("{signal}: stopping now");
            return self.cut();
        }
        log::info!("{signal}: stopping; once more stops at once");
        let stop = self.clone();
        tokio::spawn(async move { stop.gracefully().await });
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.listeners.traffic.close();
        self.listeners.sockets.close(Purpose::Listeners);
        self.control.kill();
    }

    async fn gracefully(&self) {
        let began = Instant::now();
        let Shutdown { pre_stop_delay, limit, .. } = **self.policy.load();
        self.health.stop();
        notify::stopping();
        let end = limit.map(|limit| began + limit.saturating_sub(SHUTDOWN_MARGIN));
        let at_limit = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.steps(pre_stop_delay) => {}
            () = at_limit => {
                let left = self.front.connections().load(Ordering::Relaxed);
                log::warn!("shutdown.limit is near: {} cut off", counted_being(left as u64, "connection"));
                self.cut();
            }
        }
    }

    async fn steps(&self, pre_stop_delay: Duration) {
        self.front.set_phase(Phase::KeepAliveOff);
        sleep(pre_stop_delay).await;
        self.listeners.sockets.narrow(Purpose::Listeners);
        self.listeners.traffic.close();
        if timeout(CLOSE_TIMEOUT, self.listeners.traffic.closed()).await.is_err() {
            log::warn!("listeners took over {CLOSE_TIMEOUT:?} to close");
        }
        self.listeners.sockets.close(Purpose::Listeners);
        // A client that is busy hears `Connection: close` before its connection is idle for good: closed between two
        // requests, the next one may be on its way.
        let leave = LEAVE_DELAY.saturating_sub(pre_stop_delay);
        if !leave.is_zero() && self.front.connections().load(Ordering::Acquire) > 0 {
            sleep(leave).await;
        }
        // Open connections may bring requests that have begun: workers wait for them.
        self.control.expect_requests(true);
        self.front.set_phase(Phase::Draining);
        self.control.stop();
        while self.undecided() > 0 {
            sleep(CHECK_INTERVAL).await;
        }
        self.control.expect_requests(false);
        // The limit holds until the end.
        std::future::pending().await
    }

    /// Connections that are not with a worker: those of which a request may still come. What is with a worker, the
    /// fleet waits for as long as it should, for polls that only wait not at all.
    fn undecided(&self) -> usize {
        let open = self.front.connections().load(Ordering::Acquire);
        let status = self.control.status();
        let workers = status.apps.iter().flat_map(|app| &app.workers);
        let with_workers: u32 = workers.map(|worker| worker.carried.active() + worker.carried.parked()).sum();
        open.saturating_sub(with_workers as usize)
    }

    /// After the workers' end: what they answered last, and refusals of what they could not, may be on its way.
    pub(super) async fn last_answers(&self) {
        if self.begun.load(Ordering::Acquire) && !self.cut.load(Ordering::Acquire) {
            let _ = timeout(LAST_ANSWERS_TIMEOUT, self.front.emptied()).await;
        }
    }
}
