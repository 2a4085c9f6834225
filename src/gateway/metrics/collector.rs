//! The page of metrics: text is made when somebody scrapes.

use super::counters::{BOUNDS, CLASSES, ClientRefusals, Failure, TlsMetrics};
use crate::gateway::access;
use crate::gateway::descriptors::Descriptors;
use crate::gateway::rules::{App, SharedRules};
use crate::tls::handshake::Reason;
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
    tls: Arc<TlsMetrics>,
    refusals: Arc<ClientRefusals>,
) {
    registry.register_collector(Box::new(Traffic { rules, connections, descriptors, refusals, tls }));
}

struct Traffic {
    rules: SharedRules,
    connections: Arc<AtomicUsize>,
    descriptors: Arc<Descriptors>,
    refusals: Arc<ClientRefusals>,
    tls: Arc<TlsMetrics>,
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
        self.process(&mut encoder)?;
        handshakes(&mut encoder, &self.tls)?;
        access_log(&mut encoder, &rules.access_counters)?;
        requests(&mut encoder, &rules.apps)?;
        durations(&mut encoder, &rules.apps)?;
        counters(&mut encoder, &rules.apps)?;
        gauges(&mut encoder, &rules.apps)
    }
}

fn access_log(encoder: &mut DescriptorEncoder, counters: &access::Counters) -> fmt::Result {
    let counters = [
        ("access_log_lines", "Lines of the access log that were made.", counters.lines()),
        ("access_log_lines_dropped", "Lines that are missing in the access log.", counters.dropped()),
    ];
    for (name, help, value) in counters {
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(metric)?;
    }
    Ok(())
}

impl Traffic {
    /// What all apps share.
    fn process(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let gauges = [
            ("connections_open", "Open client connections.", self.connections.load(Ordering::Relaxed)),
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
        let help = "Connections and requests turned away because of their client's address, by rule.";
        let mut metric = encoder.encode_descriptor("client_refusals", help, None, MetricType::Counter)?;
        for (rule, count) in self.refusals.counts() {
            ConstCounter::new(count).encode(metric.encode_family(&[("rule", rule)])?)?;
        }
        Ok(())
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn handshakes(encoder: &mut DescriptorEncoder, tls: &TlsMetrics) -> fmt::Result {
    let done = ConstCounter::new(get(&tls.done));
    done.encode(encoder.encode_descriptor("tls_handshakes", "TLS handshakes made.", None, MetricType::Counter)?)?;
    let help = "TLS handshakes that came to nothing, by reason; plain_listener: TLS where plain HTTP is spoken.";
    let mut metric = encoder.encode_descriptor("tls_handshake_failures", help, None, MetricType::Counter)?;
    let reasons = Reason::ALL.iter().map(|reason| reason.name()).zip(&tls.failures);
    for (reason, count) in reasons.chain([("plain_listener", &tls.plain_listener)]) {
        ConstCounter::new(get(count)).encode(metric.encode_family(&[("reason", reason)])?)?;
    }
    Ok(())
}

/// Answers and failures.
fn requests(encoder: &mut DescriptorEncoder, apps: &[Arc<App>]) -> fmt::Result {
    let help = "Answers to requests by class of status; an upgraded WebSocket counts as 1xx.";
    let mut metric = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    for app in apps {
        for (class, count) in CLASSES.iter().zip(&app.metrics.answers) {
            let labels = [("app", &*app.pool.app), ("code", *class)];
            ConstCounter::new(get(count)).encode(metric.encode_family(&labels)?)?;
        }
    }
    let help = "Requests without a worker's whole answer, by reason.";
    let mut metric = encoder.encode_descriptor("request_failures", help, None, MetricType::Counter)?;
    for app in apps {
        for (reason, count) in Failure::NAMES.iter().zip(&app.metrics.failures) {
            let labels = [("app", &*app.pool.app), ("reason", *reason)];
            ConstCounter::new(get(count)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn durations(encoder: &mut DescriptorEncoder, apps: &[Arc<App>]) -> fmt::Result {
    let help = "From a whole request head to its answer's last byte; without tunnels and waiting polls.";
    let mut metric = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
    for app in apps {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(app.metrics.buckets.iter().map(get)).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = get(&app.metrics.microseconds) as f64 / 1e6;
        let labels = [("app", &*app.pool.app)];
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder, apps: &[Arc<App>]) -> fmt::Result {
    let families: [Family<u64>; 3] = [
        ("request_retries", "Requests that went to a second worker.", |app| get(&app.metrics.retries)),
        ("tunnels_opened", "WebSocket tunnels opened.", |app| get(&app.metrics.tunnels)),
        ("queue_refused", "Requests that found the queue full or waited too long.", |app| app.pool.queue().refused()),
    ];
    for (name, help, value) in families {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for app in apps {
            ConstCounter::new(value(app)).encode(metric.encode_family(&[("app", &*app.pool.app)])?)?;
        }
    }
    Ok(())
}

fn gauges(encoder: &mut DescriptorEncoder, apps: &[Arc<App>]) -> fmt::Result {
    let families: [Family<i64>; 2] = [
        ("tunnels_open", "Open WebSocket tunnels.", |app| app.metrics.tunnels_open.load(Ordering::Relaxed)),
        ("queue_waiting", "Requests that wait for a worker.", |app| i64::from(app.pool.queue().waiting())),
    ];
    for (name, help, value) in families {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for app in apps {
            ConstGauge::new(value(app)).encode(metric.encode_family(&[("app", &*app.pool.app)])?)?;
        }
    }
    Ok(())
}
