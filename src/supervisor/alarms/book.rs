//! Which alarms are active, and when somebody is to be told. Gets the time handed in.

use super::kind::{Key, Kind, Raised};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

/// Alarms active at once; more are only counted.
const MOST: usize = 10_000;
/// Bytes kept of a detail.
const LONGEST_DETAIL: usize = 16 * 1024;

/// How much sooner than asked for a notice may be repeated.
const EARLY_REPEAT_WINDOW: Duration = Duration::from_millis(500);

/// Now, for reckoning and for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Duration,
    pub(super) wall: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Raised,
    Repeated,
    Resolved,
}

impl Status {
    pub(super) const ALL: [Status; 3] = [Status::Raised, Status::Repeated, Status::Resolved];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Raised => "raised",
            Status::Repeated => "repeated",
            Status::Resolved => "resolved",
        }
    }
}

/// What is told of an alarm at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) key: Key,
    pub(super) status: Status,
    pub(super) detail: String,
    pub(super) since: SystemTime,
    pub(super) time: SystemTime,
    /// Notices of this alarm so far, from 1.
    pub(super) count: u64,
}

impl Notice {
    /// As it is sent to others.
    pub(super) fn json(&self) -> String {
        let time = |time| humantime::format_rfc3339_millis(time).to_string();
        let Key { kind, app, slot } = &self.key;
        let status = self.status.as_str();
        let value = json!({
            "status": status,
            "kind": kind.as_str(),
            "app": (!app.is_empty()).then_some(&**app),
            "slot": slot.map(|slot| slot.0),
            "detail": self.detail,
            // What chat programs show.
            "text": format!("{status}: {}: {}", self.key, self.detail),
            "since": time(self.since),
            "time": time(self.time),
            "count": self.count,
            "host": host(),
        });
        value.to_string()
    }
}

fn host() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned())
}

#[derive(Debug)]
pub(super) struct Active {
    pub(super) detail: String,
    pub(super) since: SystemTime,
    pub(super) told: Duration,
    pub(super) count: u64,
}

#[derive(Debug)]
pub(super) struct Book {
    repeat: Duration,
    active: BTreeMap<Key, Active>,
    /// How often an alarm began, by kind and app.
    begun: BTreeMap<(Kind, Arc<str>), u64>,
    /// Notices of all alarms so far.
    notices: u64,
}

impl Book {
    pub(super) fn new(repeat: Duration) -> Book {
        Book { repeat, active: BTreeMap::new(), begun: BTreeMap::new(), notices: 0 }
    }

    /// Something to tell when it is new.
    pub(super) fn raise(&mut self, raised: Raised, now: Moment) -> Option<Notice> {
        let Raised { kind, app, slot, mut detail } = raised;
        detail.truncate(clip(&detail, LONGEST_DETAIL).len());
        let key = Key { kind, app, slot };
        if let Some(active) = self.active.get_mut(&key) {
            // Nothing new to say, as when what was measured lies below the threshold for a while.
            if !detail.is_empty() {
                active.detail = detail;
            }
            return None;
        }
        *self.begun.entry((kind, key.app.clone())).or_default() += 1;
        self.notices += 1;
        if self.active.len() >= MOST {
            return None;
        }
        let active = Active { detail, since: now.wall, told: now.at, count: 0 };
        let active = self.active.entry(key.clone()).or_insert(active);
        Some(active.notice(key, Status::Raised, now))
    }

    /// Something to tell when it was active.
    pub(super) fn clear(&mut self, key: &Key, now: Moment) -> Option<Notice> {
        let (key, mut active) = self.active.remove_entry(key)?;
        self.notices += 1;
        Some(active.notice(key, Status::Resolved, now))
    }

    /// What lasts and was told so long ago that it is told again.
    pub(super) fn repeats(&mut self, now: Moment) -> Vec<Notice> {
        // Who asks once a second may come a little early, and would be a whole second late the next time.
        let repeat = self.repeat - (self.repeat / 8).min(EARLY_REPEAT_WINDOW);
        let due = self.active.iter_mut().filter(|(_, active)| now.at.saturating_sub(active.told) >= repeat);
        let due: Vec<_> = due.map(|(key, active)| active.notice(key.clone(), Status::Repeated, now)).collect();
        self.notices += due.len() as u64;
        due
    }

    /// Counts up with each change that another process must know.
    pub(super) fn notices(&self) -> u64 {
        self.notices
    }

    pub(super) fn actives(&self) -> &BTreeMap<Key, Active> {
        &self.active
    }

    /// An alarm of another process goes on here.
    pub(super) fn put(&mut self, key: Key, active: Active) {
        if self.active.len() < MOST {
            self.active.insert(key, active);
        }
    }

    pub(super) fn put_begun(&mut self, key: Key, n: u64) {
        self.begun.insert((key.kind, key.app), n);
    }

    /// How many are active, by kind and app.
    pub(super) fn active(&self) -> BTreeMap<(Kind, Arc<str>), u64> {
        let mut counts = BTreeMap::new();
        for key in self.active.keys() {
            *counts.entry((key.kind, key.app.clone())).or_default() += 1;
        }
        counts
    }

    pub(super) fn begun(&self) -> BTreeMap<(Kind, Arc<str>), u64> {
        self.begun.clone()
    }
}

impl Active {
    fn notice(&mut self, key: Key, status: Status, now: Moment) -> Notice {
        self.told = now.at;
        self.count += 1;
        let Active { detail, since, count, .. } = self;
        Notice { key, status, detail: detail.clone(), since: *since, time: now.wall, count: *count }
    }
}

/// Its beginning, of so many bytes at most.
pub(super) fn clip(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}
