//! How much of what a worker says is listened to: all of it, until it says so much that others would feel it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For one line: a thousand a second.
const LINE_COST: Duration = Duration::from_millis(1);
/// For a byte of it: 8 MB a second.
const BYTE_COST: Duration = Duration::from_nanos(125);
/// What may come at once after a silence.
const BURST: Duration = Duration::from_secs(2);

/// Of one worker, shared by all of its connections. Each of them waits for its own line only, so one that says too much
/// does not silence the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(Arc<Mutex<Option<Instant>>>);

impl Pace {
    /// Waits until a line of so many bytes may be looked at.
    pub(super) async fn keep(&self, bytes: usize) {
        let wait = self.take(bytes, Instant::now());
        if wait > Duration::ZERO {
            tokio::time::sleep(wait).await;
        }
    }

    fn take(&self, bytes: usize, now: Instant) -> Duration {
        let mut paid = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let until = paid.map_or(earliest, |paid| paid.max(earliest)) + LINE_COST + BYTE_COST * bytes;
        *paid = Some(until);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_slowed_to_its_share() {
        let (pace, mut now) = (Pace::default(), Instant::now() + 2 * BURST);
        let begun = now;
        for _ in 0..1900 {
            assert_eq!(pace.take(100, now), Duration::ZERO);
        }
        for _ in 0..5000 {
            now += pace.take(100, now);
        }
        let took = now - begun;
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(6), "{took:?}");
        // Another connection waits for one line, whatever the flood is.
        assert!(pace.take(100, now) <= 2 * LINE_COST);
        now += BURST;
        assert!((0..1900).all(|_| pace.take(100, now) == Duration::ZERO));
        // A long line costs what it is to be parsed.
        now += BURST + BURST;
        assert_eq!(pace.take(1 << 20, now), Duration::ZERO);
        assert!((0..20).map(|_| pace.take(1 << 20, now)).max() > Some(Duration::from_millis(500)));
    }
}
