//! The page of metrics: text is made when somebody scrapes.

use super::counters::{BOUNDS, CLASSES, Failure};
use crate::gateway::descriptors::Descriptors;
use crate::gateway::rules::{App, SharedRules};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Adds what traffic counts to a registry.
pub(in crate::gateway) fn register(
    registry: &mut Registry,
    rules: SharedRules,
    connections: Arc<AtomicUsize>,
    descriptors: Arc<Descriptors>,
) {
    registry.register_collector(Box::new(Traffic { rules, connections, descriptors }));
}

struct Traffic {
    rules: SharedRules,
    connections: Arc<AtomicUsize>,
    descriptors: Arc<Descriptors>,
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
        let rules = self.rules.load();
        let apps = || rules.apps.iter().map(|app| (&*app.pool.app, &*app.metrics, app));
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);

        let open = ConstGauge::new(self.connections.load(Ordering::Relaxed) as i64);
        let metric =
            encoder.encode_descriptor("connections_open", "Open client connections.", None, MetricType::Gauge)?;
        open.encode(metric)?;

        let gauges = [
            ("descriptors_used", "File descriptors that traffic has in use.", self.descriptors.used()),
            ("descriptors_limit", "File descriptors that traffic may have in use.", self.descriptors.limit()),
            ("worker_connections_idle", "Idle connections to workers.", self.descriptors.idle()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Clients turned away because limits.connections or the descriptors were used up.";
        let refused = ConstCounter::new(self.descriptors.refused());
        refused.encode(encoder.encode_descriptor("connections_refused", help, None, MetricType::Counter)?)?;

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
