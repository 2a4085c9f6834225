//! The workers as metrics, read from the newest status at each scrape.
//!
//! Labels are bounded: an app's name, a slot, a state, a cause. What belongs to one process only (its id, its
//! socket) is none of them: series would pile up with every restart.

use super::handle::Control;
use super::status::{AppStatus, Status, WorkerStatus};
use crate::fleet::State;
use crate::process::usage::Usage;
use crate::worker::Slot;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

/// The states that are always told, also with no worker in them. Others are told when they occur.
const STATES: [&str; 11] = [
    "starting",
    "listening",
    "ready",
    "unhealthy",
    "cordoned",
    "draining",
    "stopping",
    "killing",
    "exited",
    "backing_off",
    "failed",
];

/// Adds everything that is known of the workers.
pub(crate) fn register(registry: &mut Registry, control: Control) {
    super::alarms::register(registry, control.alarms().clone(), control.logs().clone());
    registry.register_collector(Box::new(Workers(control)));
}

struct Workers(Control);

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workers")
    }
}

impl Collector for Workers {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        write(encoder, &self.0.status())
    }
}

/// A slot's present process at the moment of a scrape.
struct Reading<'s> {
    worker: &'s WorkerStatus,
    usage: Option<Usage>,
}

type Measure = fn(&Reading<'_>) -> Option<f64>;

/// Gauges by app and slot. A worker without the preload script says nothing of itself.
const GAUGES: [(&str, &str, Measure); 8] = [
    ("worker_resident_memory_bytes", "Resident memory of the slot's processes.", |read| {
        let said = read.worker.stats.map(|stats| stats.rss);
        read.usage.map(|usage| usage.rss).or(said).map(|bytes| bytes as f64)
    }),
    ("worker_heap_used_bytes", "JavaScript heap in use.", |read| Some(read.worker.stats?.heap_used as f64)),
    (
        "worker_event_loop_utilization_ratio",
        "Share of the last second in which the event loop was busy, 0 to 1.",
        |read| Some(read.worker.stats?.elu),
    ),
    ("worker_event_loop_lag_seconds", "Delay of the event loop in the last second.", |read| {
        Some(read.worker.stats?.lag_ms / 1000.0)
    }),
    ("worker_sessions", "Engine.IO sessions that the worker holds.", |read| Some(read.worker.stats?.sessions as f64)),
    ("worker_open_sockets", "Connections open at the worker.", |read| Some(read.worker.stats?.sockets as f64)),
    ("worker_active_requests", "Requests in flight to the worker.", |read| {
        Some(f64::from(read.worker.carried.active()))
    }),
    ("worker_parked_connections", "Open tunnels and waiting polls of the worker.", |read| {
        Some(f64::from(read.worker.carried.parked()))
    }),
];

fn write(mut encoder: DescriptorEncoder, status: &Status) -> fmt::Result {
    let states: Vec<_> =
        status.apps.iter().flat_map(|app| by_state(app).map(move |(state, n)| (app, state, n))).collect();
    let workers = states.iter().map(|(app, state, n)| ([("app", &*app.name), ("state", state)], ConstGauge::new(*n)));
    family(&mut encoder, "workers", "Workers, and slots that wait to start again, by state.", workers)?;

    let causes = status.apps.iter().flat_map(|app| app.restarts.iter().map(move |(cause, n)| (app, cause, *n)));
    let restarts =
        causes.map(|(app, cause, n)| ([("app", &*app.name), ("reason", cause.as_str())], ConstCounter::new(n)));
    let help = "Workers started again, by how the process before had ended.";
    family(&mut encoder, "worker_restarts", help, restarts)?;

    let readings: Vec<_> = status.apps.iter().flat_map(slots).collect();
    for (name, help, measure) in GAUGES {
        let values = readings.iter().filter_map(|(app, slot, read)| {
            Some(([("app", *app), ("slot", slot.as_str())], ConstGauge::new(measure(read)?)))
        });
        family(&mut encoder, name, help, values)?;
    }
    let cpu = readings.iter().filter_map(|(app, slot, read)| {
        let cpu = read.usage?.cpu.as_secs_f64();
        Some(([("app", *app), ("slot", slot.as_str())], ConstCounter::new(cpu)))
    });
    family(&mut encoder, "worker_cpu_seconds", "Processor time of the slot's processes; begins anew with them.", cpu)
}

fn family<'l, M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl Iterator<Item = ([(&'l str, &'l str); 2], M)>,
) -> fmt::Result {
    let kind: MetricType = M::TYPE;
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        value.encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn by_state(app: &AppStatus) -> impl Iterator<Item = (String, i64)> + use<> {
    let mut counts: BTreeMap<String, i64> = STATES.iter().map(|state| ((*state).to_owned(), 0)).collect();
    for worker in &app.workers {
        *counts.entry(worker.state.to_string().replace(' ', "_")).or_default() += 1;
    }
    for slot in app.slots.iter().filter(|slot| slot.retry_at.is_some()) {
        let state = if slot.is_failed { "failed" } else { "backing_off" };
        *counts.entry(state.to_owned()).or_default() += 1;
    }
    counts.into_iter()
}

/// Each slot's newest process.
fn slots(app: &AppStatus) -> impl Iterator<Item = (&str, String, Reading<'_>)> {
    let mut newest: BTreeMap<Slot, &WorkerStatus> = BTreeMap::new();
    for worker in app.workers.iter().filter(|worker| worker.state != State::Exited) {
        let seen = newest.entry(worker.slot).or_insert(worker);
        if seen.incarnation < worker.incarnation {
            *seen = worker;
        }
    }
    newest
        .into_iter()
        .map(move |(slot, worker)| (&*app.name, slot.to_string(), Reading { worker, usage: worker.used() }))
}

#[cfg(test)]
mod tests {
    use super::super::restarts::Cause;
    use super::super::status::{Carried, SlotStatus};
    use super::*;
    use crate::process::control::Stats;
    use crate::worker::{Generation, Incarnation};
    use prometheus_client::encoding::text;
    use std::collections::HashSet;
    use std::time::Duration;

    #[derive(Debug)]
    struct Fixed(Status);

    impl Collector for Fixed {
        fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
            write(encoder, &self.0)
        }
    }

    fn worker(slot: u16, incarnation: u32, pid: u32, state: State) -> WorkerStatus {
        WorkerStatus {
            slot: Slot(slot),
            incarnation: Incarnation(incarnation),
            generation: Generation(1),
            pid: Some(pid),
            state,
            reason: "a reason".into(),
            since: Duration::ZERO,
            socket: Some("/run/x/workers/chat.0.1.sock".into()),
            stats: None,
            carried: Carried::default(),
            serving_pid: None,
            ports: Default::default(),
            usage: (pid == 11).then_some(Usage { cpu: Duration::from_millis(1500), rss: 4096, threads: 1 }),
            cpu: None,
        }
    }

    fn page(status: Status) -> String {
        let mut registry = Registry::with_prefix("p");
        registry.register_collector(Box::new(Fixed(status)));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        page
    }

    #[test]
    fn every_series_is_there_once_and_has_bounded_labels() {
        let mut new = worker(0, 9, 11, State::Ready);
        new.stats = Some(Stats { elu: 0.5, lag_ms: 250.0, rss: 1, heap_used: 2, sockets: 3, sessions: 4 });
        let workers = vec![worker(0, 8, 10, State::Draining), new, worker(1, 7, 12, State::Exited)];
        let waiting = SlotStatus {
            slot: Slot(1),
            failures: 2,
            restarts: 2,
            last_exit: None,
            last_words: [].into(),
            retry_at: Some(Duration::from_secs(1)),
            is_failed: false,
        };
        let restarts = vec![(Cause::Exit, 2), (Cause::Start, 0)];
        let app = AppStatus {
            name: "chat".into(),
            generation: Generation(1),
            rolling: None,
            desired: 3,
            range: (3, 3),
            is_manual: false,
            is_external: false,
            last_rollout: None,
            workers,
            slots: vec![waiting],
            restarts,
            queue: Default::default(),
        };
        let text = page(Status { epoch: None, apps: vec![app] });
        for line in [
            "p_workers{app=\"chat\",state=\"ready\"} 1",
            "p_workers{app=\"chat\",state=\"draining\"} 1",
            "p_workers{app=\"chat\",state=\"backing_off\"} 1",
            "p_workers{app=\"chat\",state=\"starting\"} 0",
            "p_worker_restarts_total{app=\"chat\",reason=\"exit\"} 2",
            "p_worker_restarts_total{app=\"chat\",reason=\"start\"} 0",
            // The newest process of a slot speaks for it, and the kernel knows its memory best.
            "p_worker_resident_memory_bytes{app=\"chat\",slot=\"0\"} 4096.0",
            "p_worker_cpu_seconds_total{app=\"chat\",slot=\"0\"} 1.5",
            "p_worker_event_loop_utilization_ratio{app=\"chat\",slot=\"0\"} 0.5",
            "p_worker_event_loop_lag_seconds{app=\"chat\",slot=\"0\"} 0.25",
            "p_worker_sessions{app=\"chat\",slot=\"0\"} 4.0",
            "p_worker_active_requests{app=\"chat\",slot=\"0\"} 0.0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        let series: Vec<&str> =
            text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.rsplit_once(' ')).map(|(s, _)| s).collect();
        assert_eq!(series.iter().collect::<HashSet<_>>().len(), series.len(), "{text}");
        for series in series {
            let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
            let names: Vec<&str> = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
            assert!(names.iter().all(|name| ["app", "slot", "state", "reason"].contains(name)), "{series}");
        }
        assert!(!text.contains("/run/x") && !text.contains("a reason"), "{text}");
    }

    #[test]
    fn nothing_runs_yet() {
        let text = page(Status::default());
        assert!(text.lines().all(|line| line.starts_with('#')), "{text}");
    }
}
