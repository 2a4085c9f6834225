//! Long bodies hold a worker's place for as long as their client takes to send them. With `max_concurrency` places are few, so
//! one address may hold its share of an app's by such bodies. What is beyond waits in the app's queue, unread, and of that, too, one
//! address has its share.

use crate::gateway::places::{Place, is_fair};
use crate::gateway::rules::App;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks of an upload that waits: whoever frees a place wakes those who wait for a worker.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Whether uploads to an app are limited at all.
pub(in crate::gateway) fn is_limited(app: &App) -> bool {
    app.pool.settings().queue.max_concurrency.is_some()
}

/// Waits for a place. `None`: that took too long, or too many wait in the queue already.
pub(in crate::gateway) async fn take(app: &App, ip: IpAddr) -> Option<Place> {
    if let Some(place) = now(app, ip) {
        return Some(place);
    }
    let (queue, policy) = (app.pool.queue(), app.pool.settings().queue);
    let free = (policy.max as usize).saturating_sub(queue.waiting() as usize);
    let _place = app.waiting_uploads.take(ip, |held| is_fair(ip, held.places, free))?;
    let _waiting = queue.enter(policy.max)?;
    let end = Instant::now() + policy.timeout;
    while Instant::now() < end && !queue.is_closed() {
        sleep(LOOK_INTERVAL).await;
        if let Some(place) = now(app, ip) {
            return Some(place);
        }
    }
    None
}

fn now(app: &App, ip: IpAddr) -> Option<Place> {
    let free = app.pool.free().unwrap_or(usize::MAX);
    // This one will take one of them.
    app.uploads.take(ip, |held| is_fair(ip, held.places, free.saturating_sub(1)))
}
