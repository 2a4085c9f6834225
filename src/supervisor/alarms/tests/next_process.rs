//! Alarms that go on in the next process.

use super::*;

fn next(state: &State, policy: &Policy, now: Moment) -> State {
    let mut next = State::new(policy);
    next.restore(reread(&state.save()), now, |app| app == "chat");
    next
}

fn policy(hold: u64) -> Policy {
    Policy { repeat: at(60), rules: Rules { hold: at(hold), ..rules() }, ..Policy::default() }
}

fn short(notices: &[Notice]) -> Vec<(u64, Status, u64)> {
    let second = |notice: &Notice| notice.time.duration_since(moment(0).wall).unwrap().as_secs();
    notices.iter().map(|notice| (second(notice), notice.status, notice.count)).collect()
}

#[test]
fn an_alarm_goes_on_in_the_next_process() {
    let policy = policy(30);
    let mut state = State::new(&policy);
    let mut told = Vec::new();
    for second in 0..220 {
        // Twice, and once with a pause in which nobody looks.
        if [50, 70].contains(&second) {
            state = next(&state, &policy, moment(second));
        }
        if (100..120).contains(&second) {
            continue;
        }
        told.extend(state.observe(&app(vec![worker(3, 7, if second < 160 { 600 } else { 1 })]), moment(second)));
    }
    let expected =
        [(30, Status::Raised, 1), (90, Status::Repeated, 2), (150, Status::Repeated, 3), (190, Status::Resolved, 4)];
    assert_eq!(short(&told), expected);
    assert!(told.iter().all(|notice| notice.since == moment(30).wall));
    assert!(told.iter().all(|notice| notice.detail.ends_with("ms late, the threshold is 500 ms")));
    assert_eq!(state.book.begun().into_values().collect::<Vec<_>>(), [1]);
}

#[test]
fn an_alarm_ends_with_what_it_was_about_in_the_next_process_too() {
    let policy = policy(30);
    let mut state = State::new(&policy);
    for second in [0, 30] {
        state.observe(&app(vec![worker(0, 1, 600), worker(1, 2, 600), worker(2, 3, 600)]), moment(second));
    }
    state.book.raise(Raised { app: "gone".into(), ..raised(Kind::CrashLoop, None, "") }, moment(30));
    state.book.raise(raised(Kind::CrashLoop, Some(5), "the fleet's own"), moment(31));
    let mut state = next(&state, &policy, moment(40));
    // Another process sits in the first slot, none in the second.
    let told = state.observe(&app(vec![worker(0, 9, 600), worker(2, 3, 600)]), moment(40));
    assert_eq!(short(&told), [(40, Status::Resolved, 2); 2]);
    let left: Vec<_> = state.book.active().into_iter().collect();
    assert_eq!(left, [((Kind::Lag, "chat".into()), 1), ((Kind::CrashLoop, "chat".into()), 1)]);
    // A rule that is off now ends its alarms.
    let off = Policy { rules: Rules { lag: None, ..rules() }, ..policy };
    let mut state = next(&state, &off, moment(50));
    assert_eq!(short(&state.observe(&app(vec![worker(2, 3, 600)]), moment(50))), [(50, Status::Resolved, 2)]);
}

#[test]
fn a_counter_and_a_disk_go_on_in_the_next_process() {
    let policy = policy(30);
    let mut state = State::new(&policy);
    let measurements = |drops: u64, free: Option<u64>| {
        let mut measurements = app(vec![]);
        measurements.apps[0].log_drops = drops;
        let disk = |free| DiskSample { what: "log files".into(), small: false, free: Some(free) };
        measurements.disks = free.into_iter().map(disk).collect();
        measurements
    };
    let mut told = state.observe(&measurements(0, Some(1)), moment(0));
    told.extend(state.observe(&measurements(9, Some(1)), moment(30)));
    let mut state = next(&state, &policy, moment(40));
    // It counts from nothing, and has not looked at the disk.
    told.extend(state.observe(&measurements(0, None), moment(40)));
    told.extend(state.observe(&measurements(2, None), moment(41)));
    let words = |kind| state.book.actives().iter().find(|(key, _)| key.kind == kind).unwrap().1.detail.clone();
    assert_eq!(words(Kind::LogDrops), "11 lines of output were dropped");
    assert!(words(Kind::Disk).starts_with("log files: 0 KiB free"));
    for second in 42..80 {
        told.extend(state.observe(&measurements(2, Some(u64::MAX)), moment(second)));
    }
    let expected =
        [(30, Status::Raised, 1), (30, Status::Raised, 1), (71, Status::Resolved, 2), (72, Status::Resolved, 2)];
    assert_eq!(short(&told), expected);
    assert!(told.iter().all(|notice| !notice.detail.is_empty()));
}

#[test]
fn what_is_written_down_is_bounded() {
    let mut state = State::new(&Policy::default());
    let long = "é".repeat(100_000);
    for slot in 0..3000 {
        state.book.raise(raised(Kind::Hung, Some(slot), &long), moment(0));
        state.book.raise(Raised { app: format!("other{slot}").into(), ..raised(Kind::Hung, None, "") }, moment(0));
    }
    let notice = Book::new(at(1)).raise(raised(Kind::Lag, None, &long), moment(0)).unwrap();
    let _held: Vec<_> = (0..3000).map(|_| state.send(notice.clone())).collect();
    let text = serde_json::to_string(&state.save()).unwrap();
    assert!((1 << 20..3 << 20).contains(&text.len()), "{}", text.len());
    let next = next(&state, &Policy::default(), moment(1));
    assert!(next.book.actives().len() <= 1000 && next.inherited.len() == 200);
}

#[test]
fn what_another_version_has_written_is_left_out() {
    let read = |text: &str| serde_json::from_str::<Saved>(text).unwrap();
    read("{}");
    let far = r#"{"secs_since_epoch":999999999999999999,"nanos_since_epoch":0}"#;
    let huge = r#"{"secs":18446744073709551615,"nanos":999999999}"#;
    let one = |kind: &str, status: &str| {
        format!(
            r#"{{"active":[{{"key":{{"kind":"{kind}","app":"chat","slot":1}},"detail":"x","since":{far},"told":{huge},
            "count":18446744073709551615,"of":4294967295,"grown":[18446744073709551615,{huge}]}}],
            "begun":[[{{"kind":"{kind}","app":"chat","slot":null}},18446744073709551615]],
            "under_way":[{{"key":{{"kind":"{kind}","app":"chat","slot":null}},"status":"{status}","detail":"x",
            "since":{far},"time":{far},"count":18446744073709551615}}],"to come":1}}"#
        )
    };
    for kind in Kind::ALL {
        let mut state = State::new(&Policy { repeat: Duration::ZERO, ..Policy::default() });
        state.restore(read(&one(kind.as_str(), "raised")), moment(0), |_| true);
        assert_eq!(state.inherited.iter().map(|notice| notice.json().len()).filter(|len| *len > 50).count(), 1);
        let mut sample = app(vec![worker(1, u32::MAX, 900)]);
        (sample.apps[0].log_drops, sample.apps[0].refused) = (9, 9);
        for second in 1..100 {
            state.observe(&sample, moment(second)).iter().for_each(|notice| drop(notice.json()));
            state.book.raise(raised(kind, Some(1), "y"), moment(second));
            state.save();
        }
    }
    let mut state = State::new(&Policy::default());
    state.restore(read(&one("to-come", "raised")), moment(0), |_| true);
    state.restore(read(&one("lag", "to-come")), moment(0), |_| false);
    assert!(state.book.actives().is_empty() && state.inherited.is_empty() && state.book.begun().is_empty());
}
