//! Traffic: from a listener to a worker and back.

mod acquire;
mod alarm;
mod answer;
mod connect;
mod forward;
mod front;
pub(crate) mod http1;
mod metrics;
mod parcel;
mod phase;
mod policy;
mod proxy;
mod route;
mod settle;
mod socketio;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use front::Front;
pub(crate) use parcel::Parcel;
pub(crate) use phase::Phase;
pub(crate) use route::Route;
pub(crate) use settle::Adopted;
pub(crate) use tunnel::Frozen;

use crate::pool::Pool;
use arc_swap::ArcSwap;
use http1::head;
use metrics::AppMetrics;
use phase::House;
use pingora_core::server::configuration::ServerConf;
use prometheus_client::registry::Registry;
use proxy::Proxy;
use route::Routes;
use std::sync::Arc;
use std::time::Duration;

/// An app as traffic sees it.
pub(crate) struct App {
    metrics: Arc<AppMetrics>,
    pub(crate) pool: Arc<Pool>,
    /// How long a worker may be silent before it has begun its answer.
    pub(crate) response_timeout: Duration,
    /// How long an idle connection to a worker is kept; must be shorter than the worker keeps it.
    pub(crate) keep_alive: Duration,
}

impl App {
    pub(crate) fn new(pool: Arc<Pool>, response_timeout: Duration, keep_alive: Duration) -> App {
        App { metrics: Arc::default(), pool, response_timeout, keep_alive }
    }
}

/// What clients may ask for, and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) head_bytes: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) body_bytes: Option<u64>,
    pub(crate) body_timeout: Duration,
    pub(crate) tunnel_idle_timeout: Duration,
    pub(crate) connections: usize,
}

/// The rules that all connections share.
pub(crate) struct Gateway {
    routes: Routes,
    apps: Vec<Arc<App>>,
    limits: Limits,
    head_limits: head::Limits,
}

impl Gateway {
    /// These rules in the place of `before`: what was counted of an app goes on.
    pub(crate) fn succeeding(mut self, before: &Gateway) -> Gateway {
        for app in self.apps.iter_mut().filter_map(Arc::get_mut) {
            if let Some(old) = before.apps.iter().find(|old| old.pool.app == app.pool.app) {
                app.metrics = old.metrics.clone();
            }
        }
        self
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.apps.iter().map(|app| &app.pool)
    }

    /// `routes` name apps by their index.
    pub(crate) fn new(apps: Vec<App>, routes: Vec<Route>, limits: Limits) -> Gateway {
        let head_limits =
            head::Limits { total: limits.head_bytes, request_line: limits.head_bytes, ..head::Limits::default() };
        Gateway { routes: Routes::new(routes), apps: apps.into_iter().map(Arc::new).collect(), limits, head_limits }
    }
}

/// The rules in force. They can be replaced at any time: each request goes by those it began with,
/// and no connection is touched.
pub(crate) type Rules = Arc<ArcSwap<Gateway>>;

/// The service application for Pingora's listeners.
pub(crate) fn front(rules: Rules, conf: &Arc<ServerConf>) -> Front {
    let house = Arc::<House>::default();
    let proxy = Proxy { rules: rules.clone(), connector: Arc::default(), house: house.clone() };
    Front::new(rules, pingora_proxy::http_proxy(conf, proxy), house)
}

/// Adds what traffic counts to a registry.
pub(crate) fn register(registry: &mut Registry, front: &Front) {
    metrics::register(registry, front.rules(), front.connections());
}
