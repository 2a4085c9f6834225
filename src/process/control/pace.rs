//! How much of what a worker says is listened to: all of it, until it says so much that others would feel it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// For one line: a thousand a second.
const LINE_COST: Duration = Duration::from_millis(1);
/// For a byte of it: 8 MB a second.
const BYTE_COST: Duration = Duration::from_nanos(125);
/// What may come at once after a silence.
const BURST: Duration = Duration::from_secs(2);
/// Beyond that, lines are looked at in lots of so much: a wake-up of ours and of the supervisor's for each line would
/// cost several times what the line does.
const LOT: Duration = Duration::from_millis(50);

/// Of one worker, shared by all of its connections. Each of them waits for one lot only, so one that says too much
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
        let wait = until.saturating_duration_since(now);
        if wait < LOT { Duration::ZERO } else { wait }
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
        let mut waits = 0;
        for _ in 0..5000 {
            let wait = pace.take(100, now);
            waits += u32::from(wait > Duration::ZERO);
            now += wait;
        }
        let took = now - begun;
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(6), "{took:?}");
        assert!(waits < 150, "{waits} waits for 5000 lines");
        // Another connection waits for one lot, whatever the flood is.
        assert!(pace.take(100, now) <= LOT + 2 * LINE_COST);
        now += BURST;
        assert!((0..1900).all(|_| pace.take(100, now) == Duration::ZERO));
        // A long line costs what it is to be parsed.
        now += BURST + BURST;
        assert_eq!(pace.take(1 << 20, now), Duration::ZERO);
        assert!((0..20).map(|_| pace.take(1 << 20, now)).max() > Some(Duration::from_millis(500)));
    }
}
