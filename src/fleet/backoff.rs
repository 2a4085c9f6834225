//! How long a slot pauses after a failure.

use super::Time;
use super::policy::Policy;
use std::time::Duration;

/// The pause after the `failures`th failure in a row, from 1: doubles from `backoff_min` up to
/// `backoff_max`, and a quarter more or less, so that slots which failed together do not start together.
pub(super) fn pause(policy: &Policy, failures: u32, random: &mut fastrand::Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let base = policy.backoff_min.saturating_mul(1 << doublings).min(policy.backoff_max);
    base.mul_f64(0.75 + random.f64() / 2.0).min(policy.backoff_max)
}

/// `now + pause` that cannot overflow.
pub(super) fn after(now: Time, pause: Duration) -> Time {
    now.saturating_add(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let policy = Policy { backoff_min: Duration::from_millis(100), ..Policy::default() };
        let mut random = fastrand::Rng::with_seed(1);
        for failures in 1..=100 {
            let expected = (0.1 * 2f64.powi(failures - 1)).min(30.0);
            let got = pause(&policy, failures as u32, &mut random).as_secs_f64();
            assert!(got >= expected * 0.74 && got <= (expected * 1.26).min(30.0), "{failures}: {got}");
        }
    }

    #[test]
    fn jitter_spreads() {
        let mut random = fastrand::Rng::with_seed(1);
        let pauses: std::collections::BTreeSet<_> =
            (0..100).map(|_| pause(&Policy::default(), 3, &mut random)).collect();
        assert!(pauses.len() > 90);
    }
}
