//! The proxy's own process as metrics, by the names that every Prometheus client library uses.

use crate::process::usage::{self, Usage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Adds `process_*`; not under the prefix of the project, since these names are the same everywhere.
pub(crate) fn register_process(root: &mut Registry) {
    root.register_collector(Box::new(Own { started: SystemTime::now() }));
}

/// The version, under the project's prefix.
pub(crate) fn register_build(own: &mut Registry) {
    own.register("build", "What is running", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
}

#[derive(Debug)]
struct Own {
    started: SystemTime,
}

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // Where /proc is closed to us, these are left out.
        if let Ok(usage) = Usage::own() {
            let cpu = ConstCounter::new(usage.cpu.as_secs_f64());
            one(&mut encoder, "process_cpu_seconds", "Processor time of the proxy.", &cpu)?;
            let rss = ConstGauge::new(usage.rss);
            one(&mut encoder, "process_resident_memory_bytes", "Resident memory of the proxy.", &rss)?;
            one(&mut encoder, "process_threads", "Threads of the proxy.", &ConstGauge::new(usage.threads))?;
        }
        if let Ok(open) = usage::open_files() {
            one(&mut encoder, "process_open_fds", "File descriptors that the proxy has open.", &ConstGauge::new(open))?;
        }
        if let Some(most) = usage::open_files_limit() {
            one(&mut encoder, "process_max_fds", "File descriptors that it may have open.", &ConstGauge::new(most))?;
        }
        let since = self.started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let help = "Start of the proxy since the Unix epoch.";
        one(&mut encoder, "process_start_time_seconds", help, &ConstGauge::new(since))
    }
}

fn one<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &M,
) -> fmt::Result {
    let kind: MetricType = M::TYPE;
    metric.encode(encoder.encode_descriptor(name, help, None, kind)?)
}
