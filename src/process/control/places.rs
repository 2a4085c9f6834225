//! How many connections the control channel has at a time, and whose. Whoever floods it must not take the descriptors
//! that traffic needs, nor one app the places of another.

use crate::process::usage::open_files_limit;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Connections at a time, of all workers and strangers; and the share of our descriptors that they may have.
const CONNECTIONS: usize = 4096;
const SHARE: u64 = 4;
/// The part of them that may be there without having said who they are.
const UNGREETED_PART: usize = 8;

/// The connections of workers that have said who they are. Half of all places are everybody's; of the others each app
/// has its own, which no other can take.
#[derive(Clone, Debug)]
pub(super) struct Places {
    most: usize,
    by_app: Arc<Mutex<HashMap<Arc<str>, usize>>>,
}

/// Held as long as the connection is.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    app: Arc<str>,
}

impl Places {
    pub(super) fn new() -> Places {
        Places::of(most_connections())
    }

    fn of(most: usize) -> Places {
        Places { most, by_app: Arc::default() }
    }

    /// A place for a connection of an app, one of so many; `None` if there is none.
    pub(super) fn take(&self, app: &Arc<str>, apps: usize) -> Option<Place> {
        let mut by_app = self.lock();
        let common = self.most / 2;
        let own = common / apps.max(1);
        let used: usize = by_app.values().map(|count| count.saturating_sub(own)).sum();
        let count = by_app.entry(app.clone()).or_default();
        if *count >= own && used >= common {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), app: app.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, usize>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_app = self.places.lock();
        let Some(count) = by_app.get_mut(&self.app) else { return };
        *count -= 1;
        if *count == 0 {
            by_app.remove(&self.app);
        }
    }
}

/// The connections that have not said who they are, oldest first. When there are too many, the oldest goes: a worker
/// says it at once.
pub(super) struct Ungreeted {
    most: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Ungreeted {
    pub(super) fn new() -> Ungreeted {
        Ungreeted { most: (most_connections() / UNGREETED_PART).max(8), waiting: VecDeque::new() }
    }

    /// One more. It is to leave when the receiver hears of it, and drops it when it has said who it is.
    pub(super) fn enter(&mut self) -> oneshot::Receiver<()> {
        if self.waiting.len() >= self.most {
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        if self.waiting.len() >= self.most {
            self.waiting.pop_front().map(|oldest| oldest.send(()));
        }
        let (leave, leaving) = oneshot::channel();
        self.waiting.push_back(leave);
        leaving
    }
}

fn most_connections() -> usize {
    let share = open_files_limit().and_then(|most| usize::try_from(most / SHARE).ok());
    share.map_or(CONNECTIONS, |share| share.clamp(16, CONNECTIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_takes_all_it_can_leaves_the_others_their_own() {
        let places = Places::of(100);
        let (flood, quiet): (Arc<str>, Arc<str>) = ("flood".into(), "quiet".into());
        let taken: Vec<_> = (0..1000).map_while(|_| places.take(&flood, 2)).collect();
        assert_eq!(taken.len(), 75);
        let own: Vec<_> = (0..1000).map_while(|_| places.take(&quiet, 2)).collect();
        assert_eq!(own.len(), 25);
        drop(taken);
        let more: Vec<_> = (0..1000).map_while(|_| places.take(&quiet, 2)).collect();
        assert_eq!(more.len(), 50);
        drop((own, more));
        // Alone it may have them all.
        assert_eq!((0..1000).map_while(|_| places.take(&quiet, 1)).collect::<Vec<_>>().len(), 100);
        assert!(places.lock().is_empty());
    }

    #[test]
    fn the_oldest_that_says_nothing_goes() {
        let mut ungreeted = Ungreeted { most: 3, waiting: VecDeque::new() };
        let [mut first, second, mut third] = [ungreeted.enter(), ungreeted.enter(), ungreeted.enter()];
        // It has said who it is.
        drop(second);
        let mut fourth = ungreeted.enter();
        assert!(first.try_recv().is_err());
        let _fifth = ungreeted.enter();
        assert!(first.try_recv().is_ok());
        assert!(third.try_recv().is_err() && fourth.try_recv().is_err());
    }
}
