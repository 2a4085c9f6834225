//! Traffic: from a listener to a worker and back.

mod acquire;
mod alarm;
mod answer;
mod connect;
mod forward;
mod front;
pub(crate) mod http1;
mod policy;
mod proxy;
mod route;
mod socketio;
mod tunnel;

pub(crate) use front::Front;
pub(crate) use route::Route;

use crate::pool::Pool;
use arc_swap::ArcSwap;
use http1::head;
use pingora_core::server::configuration::ServerConf;
use proxy::Proxy;
use route::Routes;
use std::sync::Arc;
use std::time::Duration;

/// An app as traffic sees it.
pub(crate) struct App {
    pub(crate) pool: Arc<Pool>,
    /// How long a worker may be silent before it has begun its answer.
    pub(crate) response_timeout: Duration,
    /// How long an idle connection to a worker is kept; must be shorter than the worker keeps it.
    pub(crate) keep_alive: Duration,
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
    let proxy = Proxy { rules: rules.clone(), connector: Arc::new(connect::Connector) };
    Front::new(rules, pingora_proxy::http_proxy(conf, proxy))
}
