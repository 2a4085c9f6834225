//! Which alarms last, and which notices of them are under way.

use super::book::{Book, Moment, Notice};
use super::rules::{Change, Evaluator, Measurements, Rules};
use super::saved::Saved;
use super::webhook::Webhook;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// When alarms are raised by values, and who hears of them.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Between two notices of an alarm that lasts.
    pub(crate) repeat: Duration,
    pub(crate) rules: Rules,
    pub(crate) webhook: Option<Webhook>,
    /// Program and arguments, run for each notice; empty for none.
    pub(crate) exec: Vec<String>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { repeat: Duration::from_secs(3600), rules: Rules::default(), webhook: None, exec: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) book: Book,
    pub(super) evaluator: Evaluator,
    pub(super) paused: bool,
    /// Delivered when they are gone.
    pub(super) sent: Vec<Weak<Notice>>,
    /// Of another process, to be delivered from the start on.
    pub(super) inherited: Vec<Arc<Notice>>,
}

impl State {
    pub(super) fn new(policy: &Policy) -> State {
        State {
            book: Book::new(policy.repeat),
            evaluator: Evaluator::new(policy.rules.clone()),
            paused: false,
            sent: Vec::new(),
            inherited: Vec::new(),
        }
    }

    pub(super) fn observe(&mut self, measurements: &Measurements, now: Moment) -> Vec<Notice> {
        if self.paused {
            return Vec::new();
        }
        let mut notices = Vec::new();
        for change in self.evaluator.observe(measurements, now.at) {
            notices.extend(match change {
                Change::Raise(raised) => self.book.raise(raised, now),
                Change::Clear(key) => self.book.clear(&key, now),
            });
        }
        notices.extend(self.book.repeats(now));
        notices
    }

    /// Takes up what another process has left.
    pub(super) fn restore(&mut self, saved: Saved, now: Moment, known: impl Fn(&str) -> bool) {
        let notices = saved.put(&mut self.book, &mut self.evaluator, now, known);
        self.inherited = notices.into_iter().map(|notice| self.send(notice)).collect();
    }

    /// From here on it is under way for as long as somebody holds it.
    pub(super) fn send(&mut self, notice: Notice) -> Arc<Notice> {
        self.sent.retain(|sent| sent.strong_count() > 0);
        let notice = Arc::new(notice);
        self.sent.push(Arc::downgrade(&notice));
        notice
    }

    pub(super) fn under_way(&self) -> impl Iterator<Item = Arc<Notice>> {
        self.sent.iter().filter_map(Weak::upgrade)
    }

    pub(super) fn save(&self) -> Saved {
        Saved::of(&self.book, &self.evaluator, self.under_way())
    }
}
