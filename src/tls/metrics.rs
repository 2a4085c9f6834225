//! Certificates as metrics.

use super::store::TlsStore;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Rows of one family: those that end first.
const MOST_ROWS: usize = 1000;

pub(crate) fn register(registry: &mut Registry, store: Arc<TlsStore>) {
    registry.register_collector(Box::new(Told(store)));
}

#[derive(Debug)]
struct Told(Arc<TlsStore>);

impl Collector for Told {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let report = self.0.report();
        // Of two with one name and one kind of key, that which ends first.
        let mut rows = BTreeMap::new();
        for served in &report.served {
            let end = rows.entry((served.name.as_str(), served.algorithm)).or_insert(served.not_after);
            *end = served.not_after.min(*end);
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(_, end)| *end);
        let help = "When a certificate ends, in seconds since the epoch.";
        let unit = Unit::Seconds;
        let mut family = encoder.encode_descriptor("certificate_not_after", help, Some(&unit), MetricType::Gauge)?;
        for ((name, algorithm), end) in rows.into_iter().take(MOST_ROWS) {
            ConstGauge::new(end).encode(family.encode_family(&[("name", name), ("algorithm", algorithm)])?)?;
        }
        let help = "Certificates whose newest files cannot be used, so that the ones before are served.";
        let gauge = ConstGauge::new(i64::try_from(report.faults.len()).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor("certificates_unreadable", help, None, MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::rules::{Settings, Source};
    use std::path::PathBuf;

    #[test]
    fn each_name_has_its_end() {
        let store = Arc::new(TlsStore::new());
        let source = Source::SelfSigned { names: vec!["a.example".to_owned()], dir: PathBuf::from("/proc/nothing") };
        let settings = Settings { certificates: vec![source], ..Settings::default() };
        store.follow(store.load([&settings].into_iter()).unwrap(), Vec::new());
        let mut registry = Registry::default();
        register(&mut registry, store.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let end = store.report().served[0].not_after;
        assert!(
            text.contains(&format!("certificate_not_after_seconds{{name=\"a.example\",algorithm=\"ecdsa\"}} {end}")),
            "{text}"
        );
        assert!(text.contains("certificates_unreadable 0"), "{text}");
    }
}
