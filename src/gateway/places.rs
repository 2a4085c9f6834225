//! How much each client address has of something: exact counts, by IPv4 address or IPv6 /64.
//!
//! The tables hold one entry for each address that has a place now, so they are as long as there are places. A place is
//! taken and given back under the lock of one of several shards, for a look-up in a hash map: when a connection begins and ends,
//! and for a request only where it is counted by itself (one that came through a trusted proxy, a long upload). A request
//! of an HTTP/2 connection counts on that connection's entry, without a lock.

use super::request::client::{ClientKey, is_local};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

const SHARDS: usize = 32;

/// What one address has.
#[derive(Debug, Default)]
struct Entry {
    /// Places of its own. Written under its shard's lock.
    places: AtomicUsize,
    /// More on one of them.
    extras: AtomicUsize,
}

/// What one address has, as a rule sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) places: usize,
    /// Those and what is on them.
    pub(super) all: usize,
}

impl Entry {
    fn held(&self) -> Held {
        let places = self.places.load(Ordering::Relaxed);
        Held { places, all: places + self.extras.load(Ordering::Relaxed) }
    }
}

type Shard = HashMap<ClientKey, Arc<Entry>>;

#[derive(Debug, Default)]
pub(super) struct Places {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

impl Places {
    pub(super) fn new() -> Arc<Places> {
        Arc::default()
    }

    fn shard(&self, key: ClientKey) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        // Nothing panics while it is held.
        shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes a place for an address, if it may have another one beside those that it has.
    pub(super) fn take(self: &Arc<Self>, ip: IpAddr, may: impl FnOnce(Held) -> bool) -> Option<Place> {
        let key = ip.into();
        let mut shard = self.shard(key);
        let held = shard.get(&key).map_or_else(Held::default, |entry| entry.held());
        if !may(held) {
            return None;
        }
        let entry = shard.entry(key).or_default().clone();
        entry.places.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        Some(Place { places: self.clone(), entry, ip })
    }
}

/// One place of an address, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    entry: Arc<Entry>,
    ip: IpAddr,
}

impl Place {
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    pub(super) fn account(&self) -> Account {
        Account { entry: self.entry.clone(), ip: self.ip }
    }
}

/// The account of an address, for what comes on a place of its own. It takes no lock.
#[derive(Clone, Debug)]
pub(super) struct Account {
    entry: Arc<Entry>,
    ip: IpAddr,
}

impl Account {
    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Takes one more on a place, if the address may have it.
    pub(super) fn extra(&self, may: impl FnOnce(Held) -> bool) -> Option<Extra> {
        if !may(self.entry.held()) {
            return None;
        }
        self.entry.extras.fetch_add(1, Ordering::Relaxed);
        Some(Extra(self.entry.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let key = self.ip.into();
        let mut shard = self.places.shard(key);
        if self.entry.places.fetch_sub(1, Ordering::Relaxed) == 1 {
            shard.remove(&key);
            if shard.is_empty() {
                // What a flood has made large does not stay so.
                *shard = HashMap::new();
            }
        }
    }
}

/// One more on a place.
#[derive(Debug)]
pub(super) struct Extra(Arc<Entry>);

impl Drop for Extra {
    fn drop(&mut self) {
        self.0.extras.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of what all clients share, how many times as much as is left free one address may have. Alone, it gets three quarters,
/// and then nothing is refused to others as long as they are modest; two that want everything get three sevenths each.
const SHARE: usize = 3;

/// Whether an address that has `held` may have one more, so that `free` are left for others. One it may always have, and this
/// machine any number.
pub(super) fn is_fair(ip: IpAddr, held: usize, free: usize) -> bool {
    held == 0 || held < free.saturating_mul(SHARE) || is_local(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn counts_are_exact_and_entries_go_with_the_last_place() {
        let places = Places::new();
        let below = |most: usize| move |held: Held| held.places < most;
        let first = places.take(ip("1.1.1.1"), below(2)).unwrap();
        let second = places.take(ip("::ffff:1.1.1.1"), below(2)).unwrap();
        assert!(places.take(ip("1.1.1.1"), below(2)).is_none());
        let other = places.take(ip("1.1.1.2"), below(1)).unwrap();
        let extra = first.account().extra(|held| held == Held { places: 2, all: 2 }).unwrap();
        assert!(second.account().extra(|held| held.all < 3).is_none());
        drop(first);
        assert!(places.take(ip("1.1.1.1"), |held| held == Held { places: 1, all: 2 }).is_some());
        drop((second, other));
        assert!(places.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
        // One that outlives its place disturbs nobody.
        let again = places.take(ip("1.1.1.1"), |held| held == Held::default()).unwrap();
        drop(extra);
        assert_eq!(again.entry.held(), Held { places: 1, all: 1 });
    }

    #[test]
    fn many_at_once_leave_nothing() {
        let places = Places::new();
        std::thread::scope(|scope| {
            for thread in 0..4u8 {
                let places = places.clone();
                scope.spawn(move || {
                    for n in 0..2000u32 {
                        let ip = IpAddr::from([10, 0, thread % 2, (n % 7) as u8]);
                        let place = places.take(ip, |held| held.places < 3);
                        assert!(place.is_none_or(|place| place.entry.held().places <= 3));
                    }
                });
            }
        });
        assert!(places.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn one_address_leaves_a_quarter_to_others() {
        let most = |limit: usize| (0..limit).take_while(|held| is_fair(ip("1.1.1.1"), *held, limit - held - 1)).count();
        assert_eq!([1, 2, 4, 100, 1000].map(most), [1, 1, 3, 75, 750]);
        assert!(is_fair(ip("127.0.0.1"), 1000, 0) && is_fair(ip("::1"), 1000, 0) && !is_fair(ip("127.0.0.2"), 1000, 0));
    }
}
