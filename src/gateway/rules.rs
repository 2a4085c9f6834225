//! The rules that all connections share: apps, routes and limits. They can be replaced at any time.

use super::access::{self, AccessLog};
use super::http1::head;
use super::metrics::counters::AppMetrics;
use super::places::Places;
use super::request::error_pages::ErrorPages;
use super::request::error_response::ErrorResponse;
use super::request::forwarding::Forwarding;
use super::request::limits::RequestLimits;
use super::request::passes::LoopName;
use super::request::plan::HeaderSource;
use super::request::rate::Rate;
use super::request::route::{Action, Route, RouteLimits};
use super::request::route_table::{Ambiguous, Asked, Routes};
use crate::pool::Pool;
use crate::process::output::Logs;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::time::Duration;

/// What the workers of an app speak on their sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Http1,
    /// Without TLS, by prior knowledge.
    Http2,
}

/// Who carries plain HTTP requests to workers that speak HTTP/1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// This gateway's own path.
    #[default]
    Own,
    /// Pingora's `ProxyHttp`, as a reference.
    Pingora,
}

/// An app as traffic sees it.
pub(crate) struct App {
    pub(super) metrics: Arc<AppMetrics>,
    /// The clients whose long bodies are on their way to it.
    pub(super) uploads: Arc<Places>,
    /// The same of those that wait for such a place.
    pub(super) waiting_uploads: Arc<Places>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) protocol: Protocol,
    /// How long a worker may be silent before it has begun its answer.
    pub(crate) response_timeout: Duration,
    /// How long an idle connection to a worker is kept; must be shorter than the worker keeps it.
    pub(crate) keep_alive: Duration,
}

impl App {
    pub(crate) fn new(pool: Arc<Pool>, protocol: Protocol, response_timeout: Duration, keep_alive: Duration) -> App {
        App {
            metrics: Arc::default(),
            uploads: Places::new(),
            waiting_uploads: Places::new(),
            pool,
            protocol,
            response_timeout,
            keep_alive,
        }
    }
}

/// What clients may ask for, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Request line and headers together, in bytes (431 beyond).
    pub(crate) head_bytes: usize,
    /// From a head's first byte to its last (408 then).
    pub(crate) head_timeout: Duration,
    /// Idle time of a client's kept-alive connection.
    pub(crate) keepalive_timeout: Duration,
    /// Request body in bytes (413 beyond); `None` leaves it to the app.
    pub(crate) body_bytes: Option<u64>,
    /// Between two pieces of a body while only the client is waited for: 408 for a request's, a cut for a response's.
    pub(crate) body_timeout: Duration,
    /// Least rate of a body while only the client is waited for, in bytes per second; 0 for none.
    pub(crate) body_rate: u64,
    /// A WebSocket silent both ways for this long is closed; a session's poll is not waited for any longer (504).
    pub(crate) tunnel_idle_timeout: Duration,
    /// Open client connections in all; beyond, new ones are closed at once.
    pub(crate) connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 16 * 1024,
            head_timeout: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(60),
            body_bytes: None,
            body_timeout: Duration::from_secs(60),
            body_rate: 240,
            tunnel_idle_timeout: Duration::from_secs(3600),
            connections: 100_000,
        }
    }
}

/// What one client address may have; `None` is without a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    /// Open connections; through a trusted proxy, requests and tunnels at a time.
    pub(crate) connections: Option<usize>,
    pub(crate) requests: Option<Rate>,
}

/// Who clients are, and what each may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    pub(crate) forwarding: Forwarding,
    pub(crate) limits: ClientLimits,
}

/// The rules in force at one moment.
pub(crate) struct Rules {
    pub(super) routes: Routes,
    pub(super) error_pages: ErrorPages,
    pub(super) apps: Vec<Arc<App>>,
    pub(super) limits: Limits,
    pub(super) clients: Clients,
    pub(super) head_limits: head::Limits,
    pub(super) carrier: Carrier,
    pub(super) loop_name: LoopName,
    /// A whole `Keep-Alive` line for answers after which the connection stays, or nothing.
    pub(super) keep_alive_hint: Box<[u8]>,
    /// `None`: requests are not logged.
    pub(super) access: Option<Arc<AccessLog>>,
    pub(super) access_counters: Arc<access::Counters>,
}

/// How much sooner than the proxy a client should give an idle connection up, so that its next request does not meet
/// one that just closed.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

impl Rules {
    /// `routes` name apps by their index.
    pub(crate) fn new(
        apps: Vec<App>,
        routes: Routes,
        limits: Limits,
        clients: Clients,
        carrier: Carrier,
        loop_name: LoopName,
    ) -> Rules {
        let head_limits =
            head::Limits { total: limits.head_bytes, request_line: limits.head_bytes, ..head::Limits::default() };
        let hint = limits.keepalive_timeout.saturating_sub(KEEP_ALIVE_MARGIN).as_secs();
        let hint = if hint > 0 { format!("Keep-Alive: timeout={hint}\r\n") } else { String::new() };
        Rules {
            routes,
            error_pages: ErrorPages::default(),
            apps: apps.into_iter().map(Arc::new).collect(),
            limits,
            clients,
            head_limits,
            carrier,
            loop_name,
            keep_alive_hint: hint.into_bytes().into(),
            access: None,
            access_counters: Arc::default(),
        }
    }

    /// With these pages in the place of the proxy's own.
    pub(crate) fn with_error_pages(self, error_pages: ErrorPages) -> Rules {
        Rules { error_pages, ..self }
    }

    /// With an access log, if there is to be one. `counters` are those of the rules before.
    pub(crate) fn with_access(
        mut self,
        policy: Option<access::Policy>,
        logs: &Arc<Logs>,
        counters: Arc<access::Counters>,
    ) -> Rules {
        self.access = policy.map(|policy| Arc::new(AccessLog::new(policy, logs.clone(), counters.clone())));
        self.access_counters = counters;
        self
    }

    pub(crate) fn access_counters(&self) -> Arc<access::Counters> {
        self.access_counters.clone()
    }

    /// Writes what is left of the access log, for at most `limit`. Blocks.
    pub(crate) fn close_access_log(&self, limit: Duration) {
        self.access.iter().for_each(|log| log.close(limit));
    }

    /// These rules in the place of `before`: what was counted of an app goes on, and so does an access log.
    pub(crate) fn succeeding(mut self, before: &Rules) -> Rules {
        match (self.access.take().and_then(Arc::into_inner), &before.access) {
            (Some(log), Some(before)) => self.access = Some(Arc::new(log.succeeding(before))),
            (log, before) => {
                self.access = log.map(Arc::new);
                before.iter().for_each(|before| before.leave());
            }
        }
        for app in self.apps.iter_mut().filter_map(Arc::get_mut) {
            if let Some(old) = before.apps.iter().find(|old| old.pool.app == app.pool.app) {
                app.metrics = old.metrics.clone();
                app.uploads = old.uploads.clone();
                app.waiting_uploads = old.waiting_uploads.clone();
            }
        }
        self
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.apps.iter().map(|app| &app.pool)
    }

    /// Those of a request: of its route, else of its app, else of all.
    pub(super) fn request_limits(&self, route: &Route, app: Option<&App>) -> RequestLimits {
        let RouteLimits { body_bytes, body_timeout, body_rate, response_timeout } = route.limits;
        let all = self.body_limits();
        RequestLimits {
            body_bytes: body_bytes.unwrap_or(all.body_bytes),
            body_timeout: body_timeout.unwrap_or(all.body_timeout),
            body_rate: body_rate.unwrap_or(all.body_rate),
            response_timeout: response_timeout.or(app.map(|app| app.response_timeout)).unwrap_or(all.response_timeout),
            poll_timeout: all.poll_timeout,
        }
    }

    /// The route of a request, or why it has none: what the client is told, and the access log.
    pub(super) fn route<'a, H: HeaderSource<'a> + Copy>(
        &self,
        asked: &Asked<'a, H>,
    ) -> Result<&Route, (ErrorResponse, &'static str)> {
        match self.routes.find(asked) {
            Ok(Some(at)) => Ok(self.routes.get(at)),
            Ok(None) => Err((ErrorResponse::NO_ROUTE, "no_route")),
            Err(Ambiguous) => Err((ErrorResponse::AMBIGUOUS_PATH, "ambiguous_path")),
        }
    }

    /// The app of a route; `None` for one that is answered without.
    pub(super) fn app_of(&self, route: &Route) -> Option<&Arc<App>> {
        match route.action {
            Action::App(index) => self.apps.get(index),
            _ => None,
        }
    }

    /// Those of bodies, which are the same for all apps.
    pub(super) fn body_limits(&self) -> RequestLimits {
        RequestLimits {
            body_bytes: self.limits.body_bytes,
            body_timeout: self.limits.body_timeout,
            body_rate: self.limits.body_rate,
            response_timeout: Duration::MAX,
            poll_timeout: self.limits.tunnel_idle_timeout,
        }
    }
}

/// Each request goes by the rules it began with; a change touches no connection.
pub(crate) type SharedRules = Arc<ArcSwap<Rules>>;
