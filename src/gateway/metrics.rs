//! What traffic counts, per app. Counting is an atomic addition; text is made when somebody scrapes.

use super::{App, Rules};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Upper bounds of the latency buckets, in seconds; beyond is the last bucket.
const BOUNDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Why the proxy answered in a worker's place, or no answer came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    NoWorker,
    WorkerDied,
    NoAnswer,
    Malformed,
    ClientGone,
    BadRequest,
    Truncated,
}

impl Failure {
    const NAMES: [&str; 7] =
        ["no_worker", "worker_died", "no_answer", "malformed_answer", "client_gone", "bad_request", "truncated_answer"];
}

/// The counters of one app.
#[derive(Debug, Default)]
pub(super) struct AppMetrics {
    answers: [AtomicU64; CLASSES.len()],
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
    failures: [AtomicU64; Failure::NAMES.len()],
    retries: AtomicU64,
    tunnels: AtomicU64,
    tunnels_open: AtomicI64,
}

impl AppMetrics {
    /// An answer went out. `took` is from the whole request head to the answer's last byte; not given
    /// for waiting polls, whose time says nothing of the app.
    pub(super) fn answered(&self, status: u16, took: Option<Duration>) {
        let class = usize::from(status / 100).clamp(1, CLASSES.len()) - 1;
        self.answers[class].fetch_add(1, Ordering::Relaxed);
        if let Some(took) = took {
            let seconds = took.as_secs_f64();
            let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
            self.microseconds.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self, failure: Failure) {
        self.failures[failure as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A request went to a second worker.
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a tunnel until the guard is dropped.
    pub(super) fn tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        self.moved_tunnel()
    }

    /// The same for one that another process has opened.
    pub(super) fn moved_tunnel(self: &Arc<Self>) -> OpenTunnel {
        self.tunnels_open.fetch_add(1, Ordering::Relaxed);
        OpenTunnel(self.clone())
    }
}

pub(super) struct OpenTunnel(Arc<AppMetrics>);

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.0.tunnels_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds what traffic counts to a registry.
pub(super) fn register(registry: &mut Registry, rules: Rules, connections: Arc<AtomicUsize>) {
    registry.register_collector(Box::new(Traffic { rules, connections }));
}

struct Traffic {
    rules: Rules,
    connections: Arc<AtomicUsize>,
}

/// Name, help and value of a family with one value per app.
type Family<V> = (&'static str, &'static str, fn(&App) -> V);

impl fmt::Debug for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Traffic")
    }
}

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let gateway = self.rules.load();
        let apps = || gateway.apps.iter().map(|app| (&*app.pool.app, &*app.metrics, app));
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        let open = ConstGauge::new(self.connections.load(Ordering::Relaxed) as i64);
        let metric =
            encoder.encode_descriptor("connections_open", "Open client connections.", None, MetricType::Gauge)?;
        open.encode(metric)?;

        let help = "Answers to requests by class of status; an upgraded WebSocket counts as 1xx.";
        let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for (name, metrics, _) in apps() {
            for (class, count) in CLASSES.iter().zip(&metrics.answers) {
                let labels = [("app", name), ("code", *class)];
                ConstCounter::new(get(count)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Requests without a worker's whole answer, by reason.";
        let mut metric = encoder.encode_descriptor("request_failures", help, None, MetricType::Counter)?;
        for (name, metrics, _) in apps() {
            for (reason, count) in Failure::NAMES.iter().zip(&metrics.failures) {
                let labels = [("app", name), ("reason", *reason)];
                ConstCounter::new(get(count)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "From a whole request head to its answer's last byte; without tunnels and waiting polls.";
        let mut metric = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
        for (name, metrics, _) in apps() {
            let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(metrics.buckets.iter().map(get)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = get(&metrics.microseconds) as f64 / 1e6;
            metric.encode_family(&[("app", name)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let counters: [Family<u64>; 3] = [
            ("request_retries", "Requests that went to a second worker.", |app| {
                app.metrics.retries.load(Ordering::Relaxed)
            }),
            ("tunnels_opened", "WebSocket tunnels opened.", |app| app.metrics.tunnels.load(Ordering::Relaxed)),
            ("queue_refused", "Requests that found the queue full or waited too long.", |app| {
                app.pool.queue().refused()
            }),
        ];
        for (family, help, value) in counters {
            let mut metric = encoder.encode_descriptor(family, help, None, MetricType::Counter)?;
            for (name, _, app) in apps() {
                ConstCounter::new(value(app)).encode(metric.encode_family(&[("app", name)])?)?;
            }
        }
        let gauges: [Family<i64>; 2] = [
            ("tunnels_open", "Open WebSocket tunnels.", |app| app.metrics.tunnels_open.load(Ordering::Relaxed)),
            ("queue_waiting", "Requests that wait for a worker.", |app| i64::from(app.pool.queue().waiting())),
        ];
        for (family, help, value) in gauges {
            let mut metric = encoder.encode_descriptor(family, help, None, MetricType::Gauge)?;
            for (name, _, app) in apps() {
                ConstGauge::new(value(app)).encode(metric.encode_family(&[("app", name)])?)?;
            }
        }
        Ok(())
    }
}
