mod next_process;
mod sending;
mod thresholds;

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

fn reread(saved: &Saved) -> Saved {
    serde_json::from_str(&serde_json::to_string(saved).unwrap()).unwrap()
}

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
