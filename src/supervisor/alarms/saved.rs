//! Alarms written down, and taken up again by another process on the same boot: nothing is told anew, and the end of
//! what began in one process is told by the other.
//!
//! Durations are by the clock that all processes of a boot share. Whoever reads this may be older than who wrote it:
//! what it does not know is left out.

use super::book::{Active, Book, Moment, Notice, Status, clip};
use super::kind::{Key, Kind};
use super::rules::Evaluator;
use crate::worker::{Incarnation, Slot};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Active alarms that are written down, and as many counts.
const MOST: usize = 1000;
/// Notices under way that are written down.
const UNDER_WAY: usize = 200;
/// Bytes of all details together, and of one that may always be written.
const DETAILS: usize = 1 << 20;
const SHORT: usize = 1 << 10;
/// More than is ever counted; sums of a few do not overflow.
const LARGEST: u64 = 1 << 53;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(in crate::supervisor) struct Saved {
    #[serde(default)]
    active: Vec<SavedAlarm>,
    /// How often an alarm began.
    #[serde(default)]
    begun: Vec<(SavedKey, u64)>,
    /// Not delivered yet.
    #[serde(default)]
    under_way: Vec<SavedNotice>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedKey {
    kind: String,
    app: String,
    slot: Option<Slot>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedAlarm {
    key: SavedKey,
    detail: String,
    since: SystemTime,
    told: Duration,
    count: u64,
    /// The worker whose value has crossed its threshold.
    of: Option<Incarnation>,
    /// How far a counter has grown, and when it did last.
    grown: Option<(u64, Duration)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedNotice {
    key: SavedKey,
    status: String,
    detail: String,
    since: SystemTime,
    time: SystemTime,
    count: u64,
}

impl Saved {
    pub(super) fn of(book: &Book, evaluator: &Evaluator, under_way: impl Iterator<Item = Arc<Notice>>) -> Saved {
        let under_way: Vec<_> = under_way.take(UNDER_WAY).collect();
        let longest = DETAILS / (book.actives().len().min(MOST) + under_way.len()).max(1);
        let short = |detail: &str| clip(detail, longest.max(SHORT)).to_owned();
        let alarm = |(key, active): (&Key, &Active)| SavedAlarm {
            key: key.into(),
            detail: short(&active.detail),
            since: active.since,
            told: active.told,
            count: active.count,
            of: evaluator.holds(key),
            grown: evaluator.grown(key),
        };
        let notice = |notice: &Arc<Notice>| SavedNotice {
            key: (&notice.key).into(),
            status: notice.status.as_str().to_owned(),
            detail: short(&notice.detail),
            since: notice.since,
            time: notice.time,
            count: notice.count,
        };
        let begun = book.begun().into_iter().take(MOST);
        Saved {
            active: book.actives().iter().take(MOST).map(alarm).collect(),
            begun: begun.map(|((kind, app), n)| ((&Key { kind, app, slot: None }).into(), n)).collect(),
            under_way: under_way.iter().map(notice).collect(),
        }
    }

    /// Puts it into what is still empty, and returns the notices to be delivered. `known` tells the apps there are.
    pub(super) fn put(
        self,
        book: &mut Book,
        evaluator: &mut Evaluator,
        now: Moment,
        known: impl Fn(&str) -> bool,
    ) -> Vec<Notice> {
        let known = |key: SavedKey| Key::try_from(key).ok().filter(|key| key.app.is_empty() || known(&key.app));
        for (key, n) in self.begun.into_iter().take(MOST) {
            if let Some(key) = known(key) {
                book.put_begun(key, n.min(LARGEST));
            }
        }
        for saved in self.active.into_iter().take(MOST) {
            let Some(key) = known(saved.key) else { continue };
            if let Some(of) = saved.of {
                evaluator.put_gate(key.clone(), of);
            }
            if let Some((sum, at)) = saved.grown {
                evaluator.put_counter(key.clone(), sum.min(LARGEST), at.min(now.at));
            }
            let active = Active {
                detail: clip(&saved.detail, DETAILS).to_owned(),
                since: saved.since.min(now.wall),
                told: saved.told.min(now.at),
                count: saved.count.min(LARGEST),
            };
            book.put(key, active);
        }
        let notice = |saved: SavedNotice| {
            Some(Notice {
                key: known(saved.key)?,
                status: Status::ALL.into_iter().find(|status| status.as_str() == saved.status)?,
                detail: clip(&saved.detail, DETAILS).to_owned(),
                since: saved.since.min(now.wall),
                time: saved.time.min(now.wall),
                count: saved.count,
            })
        };
        self.under_way.into_iter().take(UNDER_WAY).filter_map(notice).collect()
    }
}

impl From<&Key> for SavedKey {
    fn from(Key { kind, app, slot }: &Key) -> SavedKey {
        SavedKey { kind: kind.as_str().to_owned(), app: app.to_string(), slot: *slot }
    }
}

impl TryFrom<SavedKey> for Key {
    /// Another version knows it.
    type Error = ();

    fn try_from(SavedKey { kind, app, slot }: SavedKey) -> Result<Key, ()> {
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or(())?;
        Ok(Key { kind, app: app.into(), slot })
    }
}
