//! Says what is wrong with connections, and not more than a person reads: anybody may dial in as often as he likes.

use std::time::{Duration, Instant};

/// Lines in a span of time, of one socket.
const LINES: u32 = 10;
const SPAN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Since when, and how many; all beyond the first few are only counted.
    span: Option<(Instant, u32)>,
}

impl Complaints {
    pub(super) fn may_be_said(&mut self, now: Instant) -> bool {
        if self.span.is_some_and(|(since, _)| now >= since + SPAN) {
            self.tell_rest();
        }
        let (_, count) = self.span.get_or_insert((now, 0));
        *count = count.saturating_add(1);
        *count <= LINES
    }

    /// When those that were only counted are to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.span.map(|(since, _)| since + SPAN)
    }

    /// Begins anew.
    pub(super) fn tell_rest(&mut self) {
        if let Some(more) = self.rest() {
            log::warn!("control channel: {more} more connections like these within {SPAN:?}");
        }
    }

    fn rest(&mut self) -> Option<u32> {
        let (_, count) = self.span.take()?;
        count.checked_sub(LINES).filter(|more| *more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_said() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.due(), None);
        let said = (0..1000).filter(|_| complaints.may_be_said(start)).count();
        assert_eq!((said, complaints.due()), (10, Some(start + SPAN)));
        assert_eq!(complaints.rest(), Some(990));
        assert_eq!((complaints.due(), complaints.rest()), (None, None));
        // A few are said whenever they come.
        let said = |at| (0..3).filter(|_| complaints.may_be_said(start + SPAN * at)).count();
        assert_eq!([1, 2, 3].map(said), [3, 3, 3]);
        assert_eq!(complaints.rest(), None);
    }
}
