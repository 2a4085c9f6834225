//! Says what is wrong with connections, and not more than a person reads: anybody may dial in as often as he likes. Each
//! app, and each user of whom no more is known, has lines of its own: a flood of one does not hide what another has to say.

use crate::worker::counted;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lines in a span of time, of one [`About`].
const LINES: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);
/// Apps and users that are told apart.
const MAX_KEYS: usize = 64;

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum About {
    App(Arc<str>),
    User(u32),
    /// Of the many.
    Others,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::App(app) => write!(f, "of {app}"),
            About::User(uid) => write!(f, "of user {uid}"),
            About::Others => f.write_str("of others"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Since when, and how many; all beyond the first few are only counted.
    spans: HashMap<About, (Instant, u32)>,
}

impl Complaints {
    pub(super) fn may_be_said(&mut self, about: About, now: Instant) -> bool {
        self.tell_rest(now);
        let known = self.spans.len() < MAX_KEYS || self.spans.contains_key(&about);
        let about = if known { about } else { About::Others };
        let (_, count) = self.spans.entry(about).or_insert((now, 0));
        *count = count.saturating_add(1);
        *count <= LINES
    }

    /// When those that were only counted are to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.spans.values().map(|(since, _)| *since + SPAN).min()
    }

    /// Where a span is over, it begins anew.
    pub(super) fn tell_rest(&mut self, now: Instant) {
        for (about, more) in self.rest(now) {
            let more = counted(more, "more connection");
            log::warn!("control channel: {more} {about} like these within {SPAN:?}");
        }
    }

    fn rest(&mut self, now: Instant) -> Vec<(About, u32)> {
        let over = self.spans.extract_if(|_, (since, _)| now >= *since + SPAN);
        let rest = over.filter_map(|(about, (_, count))| Some((about, count.checked_sub(LINES).filter(|n| *n > 0)?)));
        rest.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_said() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let web = || About::App("web".into());
        assert_eq!(complaints.due(), None);
        let said = (0..1000).filter(|_| complaints.may_be_said(web(), start)).count();
        assert_eq!((said, complaints.due()), (10, Some(start + SPAN)));
        assert_eq!(complaints.rest(start), []);
        assert_eq!(complaints.rest(start + SPAN), [(web(), 990)]);
        assert_eq!((complaints.due(), complaints.rest(start + SPAN)), (None, vec![]));
        // A few are said whenever they come.
        let mut said = |at| (0..3).filter(|_| complaints.may_be_said(web(), start + SPAN * at)).count();
        assert_eq!([1, 2, 3].map(&mut said), [3, 3, 3]);
        assert_eq!(complaints.rest(start + SPAN * 4), []);
    }

    #[test]
    fn the_flood_of_one_does_not_hide_another() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        for n in 0..1000 {
            complaints.may_be_said(About::App("flood".into()), now);
            complaints.may_be_said(About::User(n), now);
        }
        assert_eq!(complaints.spans.len(), MAX_KEYS + 1);
        let mut complaints = Complaints::default();
        while complaints.may_be_said(About::App("flood".into()), now) {}
        assert!(complaints.may_be_said(About::App("web".into()), now));
        assert!(complaints.may_be_said(About::User(0), now));
    }
}
