//! How long a slot pauses after a failure, and when failures are a loop.

use super::Time;
use super::policy::{Crashes, Policy};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
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

/// The ends of a slot's processes that nobody asked for. How long each lived does not matter: a
/// loop of six seconds is found as surely as one of a fifth.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    recent: VecDeque<Time>,
    /// Found to be a loop, until a worker stays for the whole window.
    looping: bool,
}

impl History {
    /// Takes note of one more; returns how many there were within the window.
    pub(super) fn crashed(&mut self, rule: &Crashes, now: Time) -> u32 {
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| after(*at, rule.window) < now)
            || self.recent.len() > rule.max.max(1) as usize
        {
            self.recent.pop_front();
        }
        self.looping |= self.recent.len() >= rule.max.max(1) as usize;
        self.recent.len() as u32
    }

    pub(super) fn looping(&self) -> bool {
        self.looping
    }

    pub(super) fn times(&self) -> impl Iterator<Item = Time> + '_ {
        self.recent.iter().copied()
    }

    pub(super) fn recovered(&mut self) {
        *self = History::default();
    }
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

    #[test]
    fn a_slow_loop_is_a_loop_and_rare_crashes_are_none() {
        let rule = Crashes::default();
        for (period, looping) in [(200, true), (1500, true), (6000, true), (20_000, false)] {
            let mut history = History::default();
            (1..=20u64).for_each(|n| {
                history.crashed(&rule, Duration::from_millis(period) * n as u32);
            });
            assert_eq!(history.looping(), looping, "{period} ms");
        }
    }
}
