//! Rendezvous hashing over Unix backends, as a selection algorithm of pingora-load-balancing.
//!
//! Pingora's own consistent selection (Ketama) drops every backend that is not an IP address.
//! Rendezvous hashing (Thaler and Ravishankar, 1998) needs no ring: each backend scores the key and
//! the best score wins, so a backend that comes or goes moves only its own keys.

use super::{Member, Snapshot};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::selection::{BackendIter, BackendSelection};
use pingora_load_balancing::{Backend, Extensions};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Picks, for each key, always the same of the present backends.
pub(super) struct Rendezvous {
    /// With the hash that each is known by.
    backends: Vec<(u64, Backend)>,
}

impl BackendSelection for Rendezvous {
    type Iter = RendezvousIter;
    type Config = ();

    fn build(backends: &BTreeSet<Backend>) -> Self {
        let backends = backends.iter().filter(|b| b.weight > 0).map(|b| (identity(b), b.clone()));
        Rendezvous { backends: backends.collect() }
    }

    fn iter(self: &Arc<Self>, key: &[u8]) -> RendezvousIter {
        RendezvousIter { selector: self.clone(), key: hash(key), last: None }
    }
}

/// The backends for one key, best first. Hardly anybody asks for the second, so each step is a scan and nothing is
/// allocated.
pub(super) struct RendezvousIter {
    selector: Arc<Rendezvous>,
    key: u64,
    /// Score and place of the one before.
    last: Option<(f64, usize)>,
}

impl BackendIter for RendezvousIter {
    fn next(&mut self) -> Option<&Backend> {
        // Of equal scores the first in place wins.
        let better = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1));
        let score =
            |(at, (id, backend)): (usize, &(u64, Backend))| (weighted_score(mix(self.key ^ id), backend.weight), at);
        let scores = self.selector.backends.iter().enumerate().map(score);
        let left = scores.filter(|one| self.last.as_ref().is_none_or(|last| better(one, last).is_lt()));
        let best = left.max_by(better)?;
        self.last = Some(best);
        self.selector.backends.get(best.1).map(|(_, backend)| backend)
    }
}

/// A worker is known by its slot, so that the process that takes a crashed one's seat takes its
/// keys too; any other backend by its address.
fn identity(backend: &Backend) -> u64 {
    match backend.ext.get::<Arc<Member>>() {
        Some(member) => mix(u64::from(member.id.slot.0) + 1),
        None => hash(backend.addr.to_string().as_bytes()),
    }
}

/// Logarithmic method: a backend of weight 2 wins twice as many keys as one of weight 1.
fn weighted_score(hash: u64, weight: usize) -> f64 {
    // 53 bits make an exact double strictly between 0 and 1.
    let unit = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -(weight as f64) / unit.ln()
}

/// FNV-1a: the same in every build and on every machine, which the standard library's hasher
/// does not promise; two proxy processes must agree.
fn hash(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Finalizer of SplitMix64: spreads every input bit over the whole word.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Tells pingora-load-balancing the open workers of a pool.
pub(super) struct PoolDiscovery(pub(super) Arc<ArcSwap<Snapshot>>);

#[async_trait]
impl ServiceDiscovery for PoolDiscovery {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        let snapshot = self.0.load();
        let open = snapshot.seats.iter().filter(|seat| seat.open);
        Ok((open.filter_map(|seat| backend(&seat.member)).collect(), HashMap::new()))
    }
}

/// A member as a backend that carries it; `None` for a path no socket address can hold, which the
/// configuration check has refused before.
fn backend(member: &Arc<Member>) -> Option<Backend> {
    let addr = std::os::unix::net::SocketAddr::from_pathname(&*member.socket).ok()?;
    let mut ext = Extensions::new();
    ext.insert(member.clone());
    Some(Backend { addr: SocketAddr::Unix(addr), weight: 1, ext })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &str, weight: usize) -> Backend {
        let addr = std::os::unix::net::SocketAddr::from_pathname(path).unwrap();
        Backend { addr: SocketAddr::Unix(addr), weight, ext: Extensions::new() }
    }

    fn winners(backends: &[Backend]) -> Vec<String> {
        let selector = Arc::new(Rendezvous::build(&backends.iter().cloned().collect()));
        let first = |n: u32| selector.iter(&n.to_be_bytes()).next().unwrap().addr.to_string();
        (0..10_000).map(first).collect()
    }

    #[test]
    fn keys_spread_by_weight() {
        let won = winners(&[unix("/a", 1), unix("/b", 1), unix("/c", 2), unix("/zero", 0)]);
        let share = |path: &str| won.iter().filter(|w| w.contains(path)).count();
        for (path, expected) in [("/a", 2500), ("/b", 2500), ("/c", 5000)] {
            assert!(share(path).abs_diff(expected) < 250, "{path} got {}", share(path));
        }
        assert_eq!(share("/zero"), 0);
    }

    #[test]
    fn a_lost_backend_moves_only_its_own_keys() {
        let (a, b, c) = (unix("/a", 1), unix("/b", 1), unix("/c", 1));
        let before = winners(&[a.clone(), b.clone(), c]);
        let after = winners(&[a, b]);
        for (before, after) in before.iter().zip(&after) {
            assert!(before.contains("/c") || before == after);
        }
    }

    #[test]
    fn the_iterator_ends_after_each_backend_once() {
        let selector = Arc::new(Rendezvous::build(&[unix("/a", 1), unix("/b", 1)].into()));
        let mut iter = selector.iter(b"key");
        assert!(iter.next().is_some() && iter.next().is_some() && iter.next().is_none());
        let empty = Arc::new(Rendezvous::build(&BTreeSet::new()));
        assert!(empty.iter(b"key").next().is_none());
    }
}
