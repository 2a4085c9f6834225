use super::book::{Book, Moment, Notice, Status};
use super::delivery;
use super::kind::Key;
use super::rules::{AppSample, Change, DiskSample, Judge, Measurements, WorkerSample};
use super::state::State;
use super::*;
use crate::worker::Incarnation;
use crate::worker::Slot;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn moment(seconds: u64) -> Moment {
    Moment { at: at(seconds), wall: SystemTime::UNIX_EPOCH + at(1_000_000 + seconds) }
}

fn raised(kind: Kind, slot: Option<u16>, detail: &str) -> Raised {
    Raised { kind, app: "chat".into(), slot: slot.map(Slot), detail: detail.to_owned() }
}

// ---- the book

#[test]
fn an_alarm_is_told_once_then_each_interval_and_once_when_it_is_over() {
    let mut book = Book::new(at(60));
    let mut told = Vec::new();
    for second in 0..200 {
        told.extend(book.raise(raised(Kind::Lag, Some(1), &format!("late at {second}")), moment(second)));
        told.extend(book.repeats(moment(second)));
    }
    let key = told[0].key.clone();
    told.extend(book.clear(&key, moment(200)));
    told.extend(book.clear(&key, moment(201)));
    told.extend(book.repeats(moment(1000)));
    let short: Vec<_> = told.iter().map(|n| (n.status, n.detail.as_str(), n.count)).collect();
    let expected = [
        (Status::Raised, "late at 0", 1),
        (Status::Repeated, "late at 60", 2),
        (Status::Repeated, "late at 120", 3),
        (Status::Repeated, "late at 180", 4),
        (Status::Resolved, "late at 199", 5),
    ];
    assert_eq!(short, expected);
    assert!(told.iter().all(|notice| notice.since == moment(0).wall));
    assert_eq!(book.begun().into_values().collect::<Vec<_>>(), [1]);
}

#[test]
fn alarms_are_told_apart_by_kind_app_and_slot() {
    let mut book = Book::new(at(60));
    let all = [raised(Kind::Lag, Some(1), ""), raised(Kind::Lag, Some(2), ""), raised(Kind::Hung, Some(1), "")];
    for one in &all {
        assert!(book.raise(one.clone(), moment(0)).is_some());
    }
    let other = Raised { app: "api".into(), ..all[0].clone() };
    assert!(book.raise(other, moment(0)).is_some());
    assert!(book.clear(&Key { kind: Kind::Lag, app: "chat".into(), slot: Some(Slot(1)) }, moment(1)).is_some());
    assert_eq!(book.active()[&(Kind::Lag, "chat".into())], 1);
    assert_eq!(book.repeats(moment(60)).len(), 3);
}

#[test]
fn active_alarms_and_their_words_are_bounded() {
    let mut book = Book::new(at(60));
    let told = (0..u16::MAX).filter(|slot| book.raise(raised(Kind::Elu, Some(*slot), ""), moment(0)).is_some()).count();
    assert_eq!(told, 10_000);
    let mut book = Book::new(at(60));
    let long = book.raise(raised(Kind::CrashLoop, None, &"é".repeat(100_000)), moment(0)).unwrap();
    assert!(long.detail.len() <= 16 * 1024 && long.detail.ends_with('é'));
}

#[test]
fn what_is_sent_says_everything() {
    let notice = Book::new(at(1)).raise(raised(Kind::CrashLoop, Some(3), "say \"why\"\nline 2"), moment(5)).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&notice.json()).unwrap();
    assert!(value["host"].take().is_string());
    let expected = serde_json::json!({
        "status": "raised", "kind": "crash-loop", "app": "chat", "slot": 3, "detail": "say \"why\"\nline 2",
        "text": "raised: crash-loop chat[3]: say \"why\"\nline 2", "host": null, "count": 1,
        "since": "1970-01-12T13:46:45.000Z", "time": "1970-01-12T13:46:45.000Z",
    });
    assert_eq!(value, expected);
}

// ---- the rules

fn rules() -> Rules {
    Rules { memory: Some(1000 << 20), ..Rules::default() }
}

fn worker(slot: u16, incarnation: u32, lag_ms: u64) -> WorkerSample {
    let lag = Some(Duration::from_millis(lag_ms));
    WorkerSample { slot: Slot(slot), incarnation: Incarnation(incarnation), memory: None, elu: None, lag }
}

fn app(workers: Vec<WorkerSample>) -> Measurements {
    let app = AppSample { app: "chat".into(), workers, refused: 0, log_drops: 0, differing: None };
    Measurements { apps: vec![app], disks: Vec::new() }
}

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

/// A web server that answers with the given statuses, one connection each, and what was asked of it.
async fn server(statuses: Vec<u16>) -> (http::Uri, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?key=1", listener.local_addr().unwrap()).parse().unwrap();
    let (seen, requests) = tokio::sync::mpsc::channel(100);
    tokio::spawn(async move {
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            while !text.ends_with("}") {
                let mut chunk = [0; 4096];
                let n = stream.read(&mut chunk).await.unwrap();
                text.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
            }
            seen.send(text).await.unwrap();
            if status > 0 {
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (url, requests)
}

fn hook(url: http::Uri, retries: u32) -> Webhook {
    let headers = vec![("x-token".parse().unwrap(), "secret".parse().unwrap())];
    Webhook { url, headers, timeout: Duration::from_millis(500), retries }
}

fn posting(webhook: Webhook, repeat: Duration) -> Alarms {
    Alarms::new(Policy { repeat, webhook: Some(webhook), ..Policy::default() })
}

async fn status_of(requests: &mut tokio::sync::mpsc::Receiver<String>) -> (String, u64) {
    let body = json_of(&timeout(LIMIT, requests.recv()).await.expect("nothing is told").unwrap());
    (body["status"].as_str().unwrap().to_owned(), body["count"].as_u64().unwrap())
}

fn json_of(request: &str) -> serde_json::Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn a_webhook_hears_of_an_alarm_and_of_its_end() {
    let (url, mut requests) = server(vec![204, 200]).await;
    let alarms = posting(hook(url, 0), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "no heartbeat"));
    alarms.raise(raised(Kind::Hung, Some(2), "still none"));
    alarms.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    let first = timeout(LIMIT, requests.recv()).await.unwrap().unwrap();
    let head = first.to_lowercase();
    for part in
        ["post /hook?key=1 http/1.1\r\n", "content-type: application/json", "x-token: secret", "host: 127.0.0.1:"]
    {
        assert!(head.contains(part), "{first}");
    }
    let body = json_of(&first);
    assert_eq!((&body["status"], &body["kind"], &body["slot"]), (&"raised".into(), &"hung".into(), &2.into()));
    let second = json_of(&timeout(LIMIT, requests.recv()).await.unwrap().unwrap());
    assert_eq!((&second["status"], &second["detail"]), (&"resolved".into(), &"still none".into()));
}

async fn counted(alarms: &Alarms, what: fn(&delivery::Counts) -> &std::sync::atomic::AtomicU64, wanted: u64) {
    let outlet = alarms.outlets().next().unwrap();
    let wait = async {
        while what(&outlet.counts).load(Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{:?}", outlet.counts));
}

#[tokio::test]
async fn a_webhook_that_fails_is_tried_again_and_one_that_refuses_is_not() {
    // In trouble, silent, then well.
    let (url, mut requests) = server(vec![503, 0, 200]).await;
    let alarms = posting(hook(url, 5), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    counted(&alarms, |counts| &counts.delivered, 1).await;
    let mut bodies = Vec::new();
    while let Ok(request) = requests.try_recv() {
        bodies.push(json_of(&request));
    }
    assert!(bodies.len() == 3 && bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");

    let (url, mut requests) = server(vec![401, 200]).await;
    let alarms = posting(hook(url, 5), at(3600));
    let _running = alarms.start();
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    counted(&alarms, |counts| &counts.failed, 1).await;
    assert!(requests.try_recv().is_ok() && requests.try_recv().is_err());
}

#[tokio::test]
async fn a_webhook_that_hangs_holds_nobody_up_and_what_waits_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let alarms = posting(Webhook { timeout: Duration::from_secs(60), ..hook(url, 0) }, at(3600));
    let _running = alarms.start();
    let began = Instant::now();
    (0..1000).for_each(|slot| alarms.raise(raised(Kind::Hung, Some(slot), "x")));
    assert!(began.elapsed() < Duration::from_secs(2));
    let dropped = alarms.outlets().next().unwrap().counts.dropped.load(Relaxed);
    assert!((700..=745).contains(&dropped), "{dropped}");
}

#[tokio::test]
async fn a_webhook_that_is_not_there_is_an_error() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for url in [
        format!("http://127.0.0.1:{port}/"),
        "http://no-such-host.invalid/".into(),
        format!("https://127.0.0.1:{port}/"),
    ] {
        let refused = Arc::new(hook(url.parse().unwrap(), 0)).post("{}").await.unwrap_err();
        assert!(refused.again, "{refused:?}");
    }
}

#[tokio::test]
async fn a_program_gets_the_alarm() {
    let dir = std::env::temp_dir().join(format!("pup-alarm-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let script = format!(
        "cd {}; cat > stdin; printf %s \"$ALARM\" > variable; env | grep ^ALARM_ | sort > parts; touch done",
        dir.display()
    );
    let alarms = Alarms::new(Policy { exec: ["sh", "-c", &script].map(str::to_owned).into(), ..Policy::default() });
    let _running = alarms.start();
    alarms.raise(raised(Kind::CannotScale, None, "no \0memory"));
    counted(&alarms, |counts| &counts.delivered, 1).await;
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let parts: HashMap<String, String> =
        read("parts").lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    let expected = [
        ("ALARM_APP", "chat"),
        ("ALARM_DETAIL", "no memory"),
        ("ALARM_KIND", "cannot-scale"),
        ("ALARM_SLOT", ""),
        ("ALARM_STATUS", "raised"),
    ];
    assert_eq!(parts, expected.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect());
    assert_eq!(read("stdin").trim_end(), read("variable"));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("stdin")).unwrap()["detail"], "no \0memory");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_program_that_fails_or_is_not_there_is_counted() {
    for command in [vec!["false"], vec!["/no/such/program"]] {
        let exec = command.into_iter().map(str::to_owned).collect();
        let alarms = Alarms::new(Policy { exec, ..Policy::default() });
        let _running = alarms.start();
        alarms.raise(raised(Kind::Hung, None, "x"));
        counted(&alarms, |counts| &counts.failed, 1).await;
    }
}

#[tokio::test]
async fn what_was_measured_is_judged_and_repeated() {
    let (url, mut requests) = server(vec![200; 3]).await;
    let policy = Policy {
        repeat: Duration::from_millis(300),
        rules: Rules { hold: Duration::ZERO, ..Rules::default() },
        webhook: Some(hook(url, 0)),
        exec: Vec::new(),
    };
    let alarms = Alarms::new(policy);
    let _running = alarms.start();
    let mut statuses = Vec::new();
    while statuses.len() < 3 {
        let late = if statuses.len() < 2 { 900 } else { 1 };
        alarms.observe(&app(vec![worker(0, 1, late)]));
        if let Ok(Some(request)) = timeout(Duration::from_millis(10), requests.recv()).await {
            statuses.push(json_of(&request)["status"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(statuses, ["raised", "repeated", "resolved"]);
}

#[tokio::test]
async fn a_notice_that_nobody_took_yet_is_delivered_by_the_next_process() {
    let (url, mut requests) = server(vec![503, 200, 200]).await;
    let old = posting(hook(url.clone(), 5), at(3600));
    let running = old.start();
    old.raise(raised(Kind::Hung, Some(2), "no heartbeat"));
    // The first try fails, the second waits for a second, and then for as long as nothing is to be told.
    assert_eq!(status_of(&mut requests).await, ("raised".into(), 1));
    old.pause(true);
    old.observe(&app(vec![]));
    let saved = reread(&old.save());
    drop(running);
    let new = posting(hook(url, 5), at(3600));
    new.restore(saved, |_| true);
    // It is not lost either when the start never comes.
    assert_eq!(new.state().under_way().count(), 1);
    let _running = new.start();
    assert_eq!(status_of(&mut requests).await, ("raised".into(), 1));
    counted(&new, |counts| &counts.delivered, 1).await;
    new.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    assert_eq!(status_of(&mut requests).await, ("resolved".into(), 2));
}

#[tokio::test]
async fn while_it_is_paused_nothing_is_told_and_then_all_is() {
    let (url, mut requests) = server(vec![200; 2]).await;
    let alarms = posting(hook(url, 0), at(3600));
    let _running = alarms.start();
    alarms.pause(true);
    alarms.raise(raised(Kind::Hung, Some(2), "x"));
    alarms.clear(Kind::Hung, &"chat".into(), Some(Slot(2)));
    assert!(timeout(Duration::from_millis(200), requests.recv()).await.is_err());
    alarms.pause(false);
    assert_eq!(status_of(&mut requests).await.0, "raised");
    assert_eq!(status_of(&mut requests).await.0, "resolved");
}

// ---- from one process to the next

fn reread(saved: &Saved) -> Saved {
    serde_json::from_str(&serde_json::to_string(saved).unwrap()).unwrap()
}

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

#[test]
fn every_kind_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md")).unwrap();
    assert!(
        names.iter().all(|name| page.contains(&format!("`{name}`"))),
        "docs/configuration.md lacks one of {names:?}"
    );
}
