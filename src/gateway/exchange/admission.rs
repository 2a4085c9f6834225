//! Places for clients: by `limits.connections` and by the account of descriptors. Idle connections to workers are worth less
//! than a client and make room.

use crate::gateway::downstream::connections::{ConnectionGuard, ConnectionRegistry, StreamGuard};
use crate::gateway::rules::Rules;
use crate::gateway::upstream::idle_pool;
use std::sync::Arc;

/// How many idle connections to workers are closed at once for a client, and how often that is tried.
const EVICT_COUNT: usize = 16;
const EVICT_ROUNDS: usize = 8;

/// Counts a new connection in, if there is a place for it.
pub(in crate::gateway) fn connection(rules: &Rules, registry: &Arc<ConnectionRegistry>) -> Option<ConnectionGuard> {
    let guard = make_room(rules, registry, EVICT_COUNT, || registry.register(rules.limits.connections));
    if guard.is_none() {
        registry.descriptors().note_refusal();
        log::debug!("no place for another client connection");
    }
    guard
}

/// Counts one more request of an HTTP/2 connection in that has one already.
pub(in crate::gateway) fn stream(rules: &Rules, registry: &Arc<ConnectionRegistry>) -> Option<StreamGuard> {
    make_room(rules, registry, 1, || registry.register_stream(rules.limits.connections))
}

fn make_room<T>(
    rules: &Rules,
    registry: &ConnectionRegistry,
    count: usize,
    register: impl Fn() -> Option<T>,
) -> Option<T> {
    let mut guard = register();
    for _ in 0..EVICT_ROUNDS {
        if guard.is_some() || registry.descriptors().idle() == 0 {
            break;
        }
        // Another thread may take what this one frees.
        idle_pool::evict(rules, count);
        guard = register();
    }
    guard
}
