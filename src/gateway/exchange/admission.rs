//! Places for clients: by `limits.connections` and by the account of descriptors, and of those what one address may have. Idle
//! connections to workers are worth less than a client and make room.

use crate::gateway::downstream::connections::{ConnectionGuard, ConnectionRegistry, StreamGuard};
use crate::gateway::metrics::counters::ClientRefusal;
use crate::gateway::places::{Account, Place, is_fair};
use crate::gateway::request::client::RequestClient;
use crate::gateway::request::error_response::ErrorResponse;
use crate::gateway::rules::Rules;
use crate::gateway::upstream::idle_pool;
use std::net::IpAddr;
use std::sync::Arc;

/// How many idle connections to workers are closed at once for a client, and how often that is tried.
const EVICT_COUNT: usize = 16;
const EVICT_ROUNDS: usize = 8;
/// When a client with as many requests under way as it may have should ask again, in seconds.
const RETRY_LATER: u32 = 1;

/// Counts a new connection in, if there is a place for it, also among those of its peer's address. `None` for that where the
/// client is not known yet.
pub(in crate::gateway) fn connection(
    rules: &Rules,
    registry: &Arc<ConnectionRegistry>,
    peer: Option<IpAddr>,
) -> Option<ConnectionGuard> {
    let Some(mut guard) = make_room(rules, registry, EVICT_COUNT, || registry.register(rules.limits.connections))
    else {
        registry.descriptors().note_refusal();
        log::debug!("no place for another client connection");
        return None;
    };
    of_client(rules, &mut guard, peer).then_some(guard)
}

/// Counts a connection for its client's address, if that may have another one. A trusted proxy's counts for nobody: its requests
/// do, each for its own client.
pub(in crate::gateway) fn of_client(rules: &Rules, guard: &mut ConnectionGuard, client: Option<IpAddr>) -> bool {
    let Some(ip) = client.filter(|ip| !rules.clients.forwarding.trusted.contains(*ip)) else { return true };
    let registry = guard.registry();
    let free = registry.free(rules.limits.connections);
    let place = registry.clients().take(ip, rules.clients.limits.connections, free);
    let is_admitted = place.is_some();
    if !is_admitted {
        log::debug!("{ip} has as many connections as it may have");
    }
    guard.hold(place);
    is_admitted
}

/// Counts one more request of an HTTP/2 connection in that has one already.
pub(in crate::gateway) fn stream(
    rules: &Rules,
    registry: &Arc<ConnectionRegistry>,
    client: Option<&Account>,
) -> Option<StreamGuard> {
    let guard = make_room(rules, registry, 1, || registry.register_stream(rules.limits.connections))?;
    let Some(account) = client else { return Some(guard) };
    let free = registry.free(rules.limits.connections);
    let Some(extra) = account.extra(|held| is_fair(account.ip(), held.all, free)) else {
        registry.clients().refuse(ClientRefusal::Share);
        return None;
    };
    Some(guard.of_client(Some(extra)))
}

/// Counts a request for its client's address: by its rate and, where it came through a trusted proxy, by how many that client
/// has under way. Where nothing of that is to be counted this costs a look.
///
/// # Errors
/// What the client is told that has too many.
pub(in crate::gateway) fn request(
    rules: &Rules,
    registry: &ConnectionRegistry,
    client: &RequestClient,
) -> Result<Option<Place>, ErrorResponse> {
    let limits = &rules.clients.limits;
    if limits.requests.is_none() && !client.via_proxy {
        return Ok(None);
    }
    let Some(ip) = client.limited(&rules.clients.forwarding) else { return Ok(None) };
    if let Some(rate) = &limits.requests {
        registry.clients().request(rate, ip).map_err(ErrorResponse::too_many)?;
    }
    if !client.via_proxy {
        return Ok(None);
    }
    let place = registry.clients().take(ip, limits.connections, registry.free(rules.limits.connections));
    place.map(Some).ok_or(ErrorResponse::too_many(RETRY_LATER))
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
