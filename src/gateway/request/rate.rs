//! How many requests a client may make per time: the generic cell rate algorithm (GCRA), whose whole state is one point in
//! time per client.

use super::client::ClientKey;
use quick_cache::sync::Cache;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Clients whose rate is known at a time; beyond, the least used are forgotten, and begin anew.
const MOST_CLIENTS: usize = 65_536;

/// A rate, and what may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Between two requests that just keep to it.
    interval: u64,
    /// How far a client may be ahead of it.
    tolerance: u64,
}

impl Rate {
    /// `requests` per `period`, and up to `burst` at once. Both numbers are at least 1.
    pub(crate) fn new(requests: u64, period: Duration, burst: u64) -> Rate {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let interval = (period / requests.max(1)).max(1);
        Rate { interval, tolerance: interval.saturating_mul(burst.max(1) - 1) }
    }

    /// Takes one request out of a client's account.
    ///
    /// # Errors
    /// It comes too soon, by so much.
    fn take(&self, account: &AtomicU64, now: u64) -> Result<(), Duration> {
        let mut due = account.load(Ordering::Relaxed);
        loop {
            // A rate that was lowered does not make a client wait for longer than its whole burst.
            let from = due.max(now).min(now.saturating_add(self.tolerance).saturating_add(self.interval));
            let ahead = from - now;
            if ahead > self.tolerance {
                return Err(Duration::from_nanos(ahead - self.tolerance));
            }
            let next = from.saturating_add(self.interval);
            match account.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

/// The accounts of all clients. The table is made with the first request that a rate is asked for.
#[derive(Debug)]
pub(in crate::gateway) struct Rates {
    began: Instant,
    accounts: OnceLock<Cache<ClientKey, Arc<AtomicU64>>>,
}

impl Rates {
    pub(in crate::gateway) fn new() -> Rates {
        Rates { began: Instant::now(), accounts: OnceLock::new() }
    }

    /// Counts one request of a client.
    ///
    /// # Errors
    /// It is one too many for now; in whole seconds, when the next one will be served.
    pub(in crate::gateway) fn take(&self, rate: &Rate, client: IpAddr) -> Result<(), u32> {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let accounts = self.accounts.get_or_init(|| Cache::new(MOST_CLIENTS));
        let key = client.into();
        let account = accounts.get(&key).unwrap_or_else(|| {
            // Two first requests at once: one of them may not count.
            let account = Arc::new(AtomicU64::new(0));
            accounts.insert(key, account.clone());
            account
        });
        rate.take(&account, now).map_err(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate::new(10, Duration::from_secs(1), 5);
        let account = AtomicU64::new(0);
        let mut now = 7 * SECOND;
        for n in 0..5 {
            assert_eq!(rate.take(&account, now), Ok(()), "{n}");
        }
        assert_eq!(rate.take(&account, now), Err(Duration::from_millis(100)));
        now += SECOND / 10;
        assert_eq!(rate.take(&account, now), Ok(()));
        assert!(rate.take(&account, now).is_err());
        // What is not used is saved up to the burst.
        now += 100 * SECOND;
        assert_eq!((0..10).filter(|_| rate.take(&account, now).is_ok()).count(), 5);
    }

    #[test]
    fn without_a_burst_each_comes_in_its_time() {
        let rate = Rate::new(1, Duration::from_secs(60), 1);
        let account = AtomicU64::new(0);
        assert_eq!(rate.take(&account, 0), Ok(()));
        assert_eq!(rate.take(&account, 10 * SECOND), Err(Duration::from_secs(50)));
        assert_eq!(rate.take(&account, 60 * SECOND), Ok(()));
    }

    #[test]
    fn a_rate_that_changes_forgives_what_was_due() {
        let account = AtomicU64::new(0);
        let slow = Rate::new(1, Duration::from_secs(3600), 10);
        assert_eq!((0..20).filter(|_| slow.take(&account, 0).is_ok()).count(), 10);
        let fast = Rate::new(10, Duration::from_secs(1), 2);
        assert_eq!(fast.take(&account, 0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn each_client_has_its_own() {
        let rates = Rates::new();
        let rate = Rate::new(1, Duration::from_secs(60), 1);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(rates.take(&rate, ip("1.1.1.1")), Ok(()));
        assert_eq!(rates.take(&rate, ip("1.1.1.2")), Ok(()));
        assert_eq!(rates.take(&rate, ip("::ffff:1.1.1.1")), Err(60));
        assert_eq!(rates.take(&rate, ip("2001:db8::1")), Ok(()));
        assert_eq!(rates.take(&rate, ip("2001:db8::2")), Err(60));
    }
}
