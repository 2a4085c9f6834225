//! What traffic counts, per app. Counting is an atomic addition.

use crate::tls::handshake::Reason;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds; beyond is the last bucket.
pub(super) const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
pub(super) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why the proxy answered in a worker's place, or no answer came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum Failure {
    /// None could take the request in time.
    NoWorker,
    /// It ended without an answer.
    WorkerDied,
    /// `response_timeout` was over.
    NoAnswer,
    /// What the worker said is no HTTP.
    Malformed,
    /// The client left, or did not take its answer.
    ClientGone,
    /// The request's body was too long, too slow or broken.
    BadRequest,
    /// The answer broke off.
    Truncated,
}

impl Failure {
    pub(super) const NAMES: [&str; 7] =
        ["no_worker", "worker_died", "no_answer", "malformed_answer", "client_gone", "bad_request", "truncated_answer"];

    pub(in crate::gateway) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// By which rule a client address was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) enum ClientRefusal {
    /// `clients.connections`.
    Connections,
    /// It has most of all connections already.
    Share,
    /// `clients.requests`.
    Requests,
    /// It has most of an app's places with bodies that are still on their way.
    Uploads,
    /// Its connection did not begin as `proxy_protocol` wants it.
    ProxyHeader,
}

impl ClientRefusal {
    pub(super) const NAMES: [&str; 5] = ["connections", "share", "requests", "uploads", "proxy_header"];
}

/// How often each happened.
#[derive(Debug, Default)]
pub(in crate::gateway) struct ClientRefusals([AtomicU64; ClientRefusal::NAMES.len()]);

impl ClientRefusals {
    pub(in crate::gateway) fn note(&self, refusal: ClientRefusal) {
        self.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ClientRefusal::NAMES.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// The counters of one app.
#[derive(Debug, Default)]
pub(in crate::gateway) struct AppMetrics {
    pub(super) answers: [AtomicU64; CLASSES.len()],
    pub(super) buckets: [AtomicU64; BOUNDS.len() + 1],
    pub(super) microseconds: AtomicU64,
    pub(super) failures: [AtomicU64; Failure::NAMES.len()],
    pub(super) retries: AtomicU64,
    pub(super) tunnels: AtomicU64,
    pub(super) tunnels_open: AtomicI64,
}

impl AppMetrics {
    /// An answer went out. `took` is from the whole request head to the answer's last byte; not given
    /// for waiting polls, whose time says nothing of the app.
    pub(in crate::gateway) fn answered(&self, status: u16, took: Option<Duration>) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
        if let Some(took) = took {
            let seconds = took.as_secs_f64();
            let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
            self.microseconds.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(in crate::gateway) fn failed(&self, failure: Failure) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request is sent again after a worker had been connected to.
    pub(in crate::gateway) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a tunnel until the guard is dropped.
    pub(in crate::gateway) fn tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        self.moved_tunnel()
    }

    /// The same for one that another process has opened.
    pub(in crate::gateway) fn moved_tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels_open.fetch_add(1, Ordering::Relaxed);
        OpenTunnel(self.clone())
    }
}

/// What became of TLS handshakes, over all listeners.
#[derive(Debug, Default)]
pub(in crate::gateway) struct TlsMetrics {
    pub(super) done: AtomicU64,
    pub(super) failures: [AtomicU64; Reason::ALL.len()],
    pub(super) plain_listener: AtomicU64,
}

impl TlsMetrics {
    pub(in crate::gateway) fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::gateway) fn failed(&self, reason: Reason) {
        self.failures[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A client has begun TLS where plain HTTP is spoken.
    pub(in crate::gateway) fn met_plain_listener(&self) {
        self.plain_listener.fetch_add(1, Ordering::Relaxed);
    }
}

pub(in crate::gateway) struct OpenTunnel(Arc<AppMetrics>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels_open.fetch_sub(1, Ordering::Relaxed);
    }
}
