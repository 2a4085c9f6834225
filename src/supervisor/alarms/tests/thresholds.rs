//! What is measured, and what is judged of it.

use super::*;

/// The seconds at which an alarm of the first kind begins and ends, for a value each second.
fn spans(values: impl Iterator<Item = Measurements>) -> Vec<(u64, bool)> {
    let mut judge = Judge::new(rules());
    let mut on = false;
    let mut spans = Vec::new();
    for (second, measurements) in values.enumerate() {
        for change in judge.observe(&measurements, at(second as u64)) {
            let now = matches!(change, Change::Raise(_));
            if now != on {
                on = now;
                spans.push((second as u64, on));
            }
        }
    }
    spans
}

fn lags(values: impl Iterator<Item = u64>) -> Vec<(u64, bool)> {
    spans(values.map(|lag| app(vec![worker(0, 1, lag)])))
}

#[test]
fn workers_with_different_servers_are_told_of_when_they_stay_so() {
    let differing = |says: Option<&str>| {
        let mut measured = app(vec![]);
        measured.apps[0].differing = says.map(str::to_owned);
        measured
    };
    // A worker that starts opens its ports one after the other.
    assert_eq!(spans((0..300).map(|s| differing((s % 30 < 20).then_some("x")))), []);
    assert_eq!(spans((0..200).map(|s| differing((s < 100).then_some("x")))), [(30, true), (130, false)]);
}

#[test]
fn a_threshold_must_be_crossed_for_a_while_and_then_not_be_crossed_for_a_while() {
    // 100 s late, then good.
    assert_eq!(lags((0..200).map(|s| if s < 100 { 600 } else { 10 })), [(30, true), (130, false)]);
    // Late for 29 s in each 30: never long enough.
    assert_eq!(lags((0..300).map(|s| if s % 30 == 29 { 10 } else { 600 })), []);
    // Once it lasts, short breaks do not end it.
    assert_eq!(lags((0..300).map(|s| if s > 40 && s % 30 < 20 { 10 } else { 600 })), [(30, true)]);
    // Just below the threshold is not better yet.
    assert_eq!(lags((0..300).map(|s| if s < 60 { 500 } else { 460 })), [(30, true)]);
    assert_eq!(lags((0..300).map(|s| if s < 60 { 500 } else { 449 })), [(30, true), (90, false)]);
}

#[test]
fn each_value_has_its_threshold() {
    let with = |change: &dyn Fn(&mut WorkerSample)| {
        let mut sample = worker(4, 1, 0);
        change(&mut sample);
        let mut judge = Judge::new(rules());
        judge.observe(&app(vec![sample.clone()]), at(0));
        match judge.observe(&app(vec![sample]), at(30)).as_slice() {
            [] => None,
            [Change::Raise(raised)] => Some((raised.kind, raised.slot, raised.detail.clone())),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(&|w| w.elu = Some(0.94)), None);
    let elu = "the event loop is busy 97 % of the time, the threshold is 95 %";
    assert_eq!(with(&|w| w.elu = Some(0.97)), Some((Kind::Elu, Some(Slot(4)), elu.into())));
    assert_eq!(with(&|w| w.memory = Some((1000 << 20) - 1)), None);
    let memory = "1200 MiB of memory, the threshold is 1000 MiB";
    assert_eq!(with(&|w| w.memory = Some(1200 << 20)), Some((Kind::Memory, Some(Slot(4)), memory.into())));
    let lag = "the event loop is 700 ms late, the threshold is 500 ms";
    assert_eq!(with(&|w| w.lag = Some(Duration::from_millis(700))), Some((Kind::Lag, Some(Slot(4)), lag.into())));
    // What is not known is no alarm, nor is what is no number.
    assert_eq!(with(&|w| (w.lag, w.elu, w.memory) = (None, Some(f64::NAN), None)), None);
}

#[test]
fn another_process_in_the_slot_or_none_ends_the_alarm() {
    let late = |second: u64| app(vec![worker(0, if second < 50 { 1 } else { 2 }, 600)]);
    assert_eq!(spans((0..100).map(late)), [(30, true), (50, false), (80, true)]);
    let gone = |second: u64| if second < 50 { app(vec![worker(0, 1, 600)]) } else { app(vec![]) };
    assert_eq!(spans((0..60).map(gone)), [(30, true), (50, false)]);
    // A removed app, too.
    let removed = |second: u64| if second < 50 { app(vec![worker(0, 1, 600)]) } else { Measurements::default() };
    assert_eq!(spans((0..60).map(removed)), [(30, true), (50, false)]);
}

#[test]
fn a_counter_that_grows_is_an_alarm_at_once_until_it_rests() {
    let counting = |of: fn(&mut AppSample, u64), values: &dyn Fn(u64) -> u64| {
        let measurements = |second: u64| {
            let mut measurements = app(vec![]);
            of(&mut measurements.apps[0], values(second));
            measurements
        };
        spans((0..200).map(measurements))
    };
    let expected = [(10, true), (49, false)];
    let growing = |second: u64| second.clamp(9, 19) - 9;
    assert_eq!(counting(|app, n| app.refused = n, &growing), expected);
    assert_eq!(counting(|app, n| app.log_drops = n, &growing), expected);
    assert_eq!(counting(|app, n| app.log_drops = n, &|_| 0), []);
    let mut judge = Judge::new(rules());
    let mut measurements = app(vec![]);
    let mut said = |n: u64, second: u64| {
        measurements.apps[0].log_drops = n;
        judge.observe(&measurements, at(second)).into_iter().map(|c| format!("{c:?}")).collect::<String>()
    };
    assert!(said(5, 0).contains("5 lines of output were dropped"));
    assert!(said(12, 20).contains("12 lines of output were dropped"));
    assert!(said(12, 50).contains("Clear"));
    assert!(said(15, 60).contains("3 lines of output were dropped"));
    // It has begun anew.
    assert_eq!(said(2, 61), "");
}

#[test]
fn a_full_disk_is_an_alarm_of_the_proxy() {
    let disk = |what: &str, small, free| DiskSample { what: what.into(), small, free };
    let measurements = |second: u64| Measurements {
        apps: vec![],
        disks: vec![
            disk("log files in /var/log/x", false, Some(if second < 60 { 50_000_000 } else { 200_000_000 })),
            disk("sockets beside /run/x", true, Some(2 << 20)),
            disk("unknown", false, None),
        ],
    };
    assert_eq!(spans((0..120).map(measurements)), [(30, true), (90, false)]);
    let mut judge = Judge::new(rules());
    judge.observe(&measurements(0), at(0));
    let changes = judge.observe(&measurements(1), at(30));
    let [Change::Raise(raised)] = changes.as_slice() else { panic!() };
    assert_eq!((&*raised.app, raised.slot), ("", None));
    assert_eq!(raised.detail, "log files in /var/log/x: 48828 KiB free, the threshold is 97656 KiB");
}

#[test]
fn rules_that_are_off_watch_nothing() {
    let off = Rules {
        hold: Duration::ZERO,
        memory: None,
        elu: None,
        lag: None,
        disk_free: None,
        queue_overflow: false,
        log_drops: false,
    };
    let mut judge = Judge::new(off.clone());
    let mut sample = worker(0, 1, 100_000);
    (sample.memory, sample.elu) = (Some(u64::MAX), Some(1.0));
    let mut measurements = app(vec![sample]);
    (measurements.apps[0].refused, measurements.apps[0].log_drops) = (9, 9);
    measurements.disks.push(DiskSample { what: "x".into(), small: false, free: Some(0) });
    assert_eq!(judge.observe(&measurements, at(0)), []);
    // Without a hold, at once.
    let mut judge = Judge::new(Rules { lag: Some(Duration::from_millis(1)), ..off });
    assert_eq!(judge.observe(&measurements, at(1)).len(), 1);
}

// ---- delivery
