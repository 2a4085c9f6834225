//! Alarms and dropped output as metrics.

use super::handle::Alarms;
use super::kind::Kind;
use crate::process::output::Logs;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(in crate::supervisor) fn register(registry: &mut Registry, alarms: Alarms, logs: Arc<Logs>) {
    registry.register_collector(Box::new(Told { alarms, logs }));
}

#[derive(Debug)]
struct Told {
    alarms: Alarms,
    logs: Arc<Logs>,
}

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let (active, begun) = {
            let state = self.alarms.state();
            (state.book.active(), state.book.begun())
        };
        // Kinds that never occurred are told, too: who draws them sees a zero, not a gap.
        let zero = |counted: &std::collections::BTreeMap<(Kind, Arc<str>), u64>| {
            let mut all = counted.clone();
            for kind in Kind::ALL {
                if !all.keys().any(|(known, _)| *known == kind) {
                    all.insert((kind, "".into()), 0);
                }
            }
            all
        };
        let (active, begun) = (zero(&active), zero(&begun));
        let rows =
            active.iter().map(|((kind, app), n)| ([("kind", kind.as_str()), ("app", app)], ConstGauge::new(*n as i64)));
        family(&mut encoder, "alarms_active", "Alarms that last, by kind.", rows)?;
        let rows =
            begun.iter().map(|((kind, app), n)| ([("kind", kind.as_str()), ("app", app)], ConstCounter::new(*n)));
        family(&mut encoder, "alarms", "Alarms that began, by kind.", rows)?;
        let outcomes = self.alarms.outlets().flat_map(|outlet| {
            let counts = &outlet.counts;
            [("delivered", &counts.delivered), ("failed", &counts.failed), ("dropped", &counts.dropped)]
                .map(|(outcome, n)| ([("way", outlet.name), ("outcome", outcome)], ConstCounter::new(n.load(Relaxed))))
        });
        family(&mut encoder, "alarm_notices", "Notices of alarms, by way and outcome.", outcomes)?;
        let dropped = self.logs.dropped();
        let rows = dropped.iter().map(|(app, n)| ([("app", &**app)], ConstCounter::new(*n)));
        family(&mut encoder, "log_lines_dropped", "Lines of workers' output that are missing in an output.", rows)
    }
}

fn family<'l, const N: usize, M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = ([(&'l str, &'l str); N], M)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, M::TYPE)?;
    for (labels, value) in rows {
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
