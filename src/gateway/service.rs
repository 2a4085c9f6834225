//! The application for Pingora's listeners: owns each client connection, reads its requests' heads with a deadline and
//! a limit, checks their framing, and hands every request to the carrier that serves it.

use super::access::Line;
use super::access::facts::Facts;
use super::carrier::http1::{self as http1_carrier, Next};
use super::carrier::{http2, pingora};
use super::descriptors::Descriptors;
use super::downstream::client_tls::ClientTls;
use super::downstream::close::{close, send_and_close};
use super::downstream::connection::{Connection, Waited, client_of};
use super::downstream::connections::{ConnectionGuard, ConnectionRegistry, Directive, Paused, Phase};
use super::downstream::{proxy_protocol, secure};
use super::exchange::admission;
use super::http1::head::{self, Head};
use super::http1::{Method, Progress};
use super::listener::{Listener, SharedListener};
use super::local::decide;
use super::metrics::collector;
use super::metrics::counters::{ClientRefusal, TlsMetrics};
use super::migration::give;
use super::request::client::RequestClient;
use super::request::error_pages::Reader;
use super::request::error_response::ErrorResponse;
use super::request::heads::host;
use super::request::hsts::Hsts;
use super::request::plan::RawHeaders;
use super::request::redirect;
use super::request::route::Route;
use super::request::route_table::Asked;
use super::rules::{Carrier, Protocol, Rules, SharedRules};
use super::tunnel::log::TunnelLog;
use super::tunnel::relay::{Ends, Relay};
use super::upstream::idle_pool;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::ServerApp;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_core::server::configuration::ServerConf;
use prometheus_client::registry::Registry;
use std::any::Any;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Between two looks at whether connections are open.
const EMPTY_INTERVAL: Duration = Duration::from_millis(20);
/// Between two looks for idle connections to workers that are over.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Of connections that come in at no listener.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves every listener. A clone serves with the same connections and the same phase.
#[derive(Clone)]
pub(crate) struct ProxyService {
    rules: SharedRules,
    pingora: Arc<pingora::PingoraCarrier>,
    registry: Arc<ConnectionRegistry>,
    handshakes: Arc<TlsMetrics>,
    /// All of them.
    listeners: Arc<[SharedListener]>,
    /// Where this one's connections come in.
    listener: SharedListener,
}

/// What a client says first that speaks HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why no request came.
enum NoRequest {
    /// The client left.
    Gone,
    /// It stayed idle for too long.
    Idle,
    /// Something to say before the connection closes.
    Refused(ErrorResponse),
    /// The connection is to go to another process.
    Migrate,
    /// It has begun to speak HTTP/2.
    Http2,
    /// It has begun to speak TLS, and plain HTTP is what is spoken here.
    Tls,
}

/// A request's head, and the rules it goes by.
type Planned = (Head, Arc<Rules>);

impl ProxyService {
    /// `descriptors` is how many file descriptors traffic may have open.
    pub(crate) fn new(rules: SharedRules, conf: &Arc<ServerConf>, descriptors: usize) -> ProxyService {
        let registry = ConnectionRegistry::new(Descriptors::new(descriptors));
        let pingora = Arc::new(pingora::PingoraCarrier::new(rules.clone(), conf, registry.clone()));
        let listener = Listener::plain(NOWHERE).shared();
        ProxyService { rules, pingora, registry, handshakes: Arc::default(), listeners: Arc::default(), listener }
    }

    /// The same service, which knows these listeners.
    pub(crate) fn with_listeners(self, listeners: Arc<[SharedListener]>) -> ProxyService {
        ProxyService { listeners, ..self }
    }

    /// The same service for the connections of one listener.
    pub(crate) fn at(&self, listener: SharedListener) -> ProxyService {
        ProxyService { listener, ..self.clone() }
    }

    /// The same service for a connection that another process has accepted at this address.
    pub(super) fn at_address(&self, address: Option<SocketAddr>) -> ProxyService {
        let known = self.listeners.iter().find(|listener| Some(listener.load().address) == address);
        known.map_or_else(|| self.clone(), |listener| self.at(listener.clone()))
    }

    /// What a client of this listener has shown.
    pub(super) fn client_tls(&self, stream: &Stream) -> ClientTls {
        ClientTls::of(&self.listener, stream)
    }

    /// Adds what traffic counts to a registry.
    pub(crate) fn register_metrics(&self, metrics: &mut Registry) {
        let (rules, descriptors) = (self.rules.clone(), self.registry.descriptors().clone());
        let refusals = self.registry.clients().refusals().clone();
        collector::register(metrics, rules, self.connections(), descriptors, self.handshakes.clone(), refusals);
    }

    /// Closes idle connections to workers as they get old. Runs as long as the process serves.
    pub(crate) async fn sweep(&self) {
        let mut interval = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            interval.tick().await;
            idle_pool::sweep(&self.rules.load());
        }
    }

    /// Tells every connection what becomes of it. Costs a request nothing.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.registry.set_phase(phase);
    }

    /// While connections move to another process: what cannot, and is idle, ends now.
    pub(crate) fn end_what_stays(&self) {
        self.registry.end_what_stays();
    }

    /// Ends when no connection is open. One that is being accepted counts a moment later.
    pub(crate) async fn emptied(&self) {
        let open = self.registry.open();
        let mut empty = 0;
        while empty < 2 {
            empty = if open.load(Ordering::Acquire) == 0 { empty + 1 } else { 0 };
            tokio::time::sleep(EMPTY_INTERVAL).await;
        }
    }

    /// Stops every tunnel that can be moved, where it stands, and gives it out: to go on here ([`Paused::resume`]) or
    /// in another process ([`Paused::to_transfer`], [`ProxyService::adopt`]). Those over TLS 1.2 stay, those over TLS 1.3
    /// unless `takes_tls`, those in their closing handshake, and those that do not stop within `limit`.
    pub(crate) async fn pause_tunnels(&self, limit: Duration, takes_tls: bool) -> Vec<Box<dyn Paused>> {
        self.registry.set_takes_tls(takes_tls);
        self.registry.pause(limit).await
    }

    pub(super) fn rules(&self) -> &SharedRules {
        &self.rules
    }

    pub(super) fn registry(&self) -> &Arc<ConnectionRegistry> {
        &self.registry
    }

    /// Open client connections, and HTTP/2 requests beyond the first of their connection.
    pub(crate) fn connections(&self) -> Arc<AtomicUsize> {
        self.registry.open()
    }

    /// A place for a connection that was just accepted, until it is served. `None`: there is none for it.
    pub(crate) fn admit(&self, peer: Option<IpAddr>) -> Option<Box<dyn Any + Send>> {
        let peer = limited(&self.listener.load(), peer);
        let guard = admission::connection(&self.rules.load(), &self.registry, peer)?;
        Some(Box::new(guard))
    }

    /// Admits a new connection, and learns who its client is. Gives what was read of it already.
    async fn admitted(&self, stream: &mut Stream, listener: &Listener) -> Option<(ConnectionGuard, BytesMut)> {
        let peer = limited(listener, client_of(stream).ip);
        let mut guard = admission::connection(&self.rules.load(), &self.registry, peer)?;
        let Some(from) = &listener.proxy_protocol else { return Some((guard, BytesMut::new())) };
        match proxy_protocol::accept(stream, from).await {
            Ok(read) => {
                let client = client_of(stream).ip;
                admission::of_client(&self.rules.load(), &mut guard, client).then_some((guard, read))
            }
            Err(fault) => {
                self.registry.clients().refuse(ClientRefusal::ProxyHeader);
                log::debug!("a connection is refused: {fault}");
                None
            }
        }
    }

    /// Waits for a whole request head, which goes by the rules of the moment when it is whole. The wait for its first
    /// byte is `idle`; from there the whole head has `head_timeout`, however it trickles in.
    async fn next_head(&self, connection: &mut Connection, idle: Duration, first: bool) -> Result<Planned, NoRequest> {
        if connection.guard.directive() == Directive::Migrate {
            return Err(NoRequest::Migrate);
        }
        let mut scanned = 0;
        let mut limit = idle;
        let mut begun = false;
        match connection.head_wait_left.take() {
            // A move does not make a wait longer.
            Some(left) if connection.read_ahead.is_empty() => connection.deadline.resume(left.min(idle)),
            Some(left) => {
                begun = true;
                connection.deadline.resume(left.min(self.rules.load().limits.head_timeout));
            }
            None => connection.deadline.clear(),
        }
        loop {
            if !connection.read_ahead.is_empty() {
                let rules = self.rules.load_full();
                if let Some(head) = parse(connection, &rules, &mut scanned)? {
                    return Ok((head, rules));
                }
                if !begun {
                    begun = true;
                    connection.deadline.clear();
                }
                limit = rules.limits.head_timeout;
            }
            match std::future::poll_fn(|cx| connection.poll_request(cx, limit, begun, first)).await {
                Waited::Read(Ok(n)) if n > 0 => {}
                Waited::Read(_) => return Err(NoRequest::Gone),
                Waited::Migrate => {
                    connection.head_wait_left = connection.deadline.left();
                    return Err(NoRequest::Migrate);
                }
                Waited::TimedOut if begun => return Err(NoRequest::Refused(ErrorResponse::REQUEST_TIMEOUT)),
                Waited::TimedOut => return Err(NoRequest::Idle),
            }
        }
    }

    /// Serves a connection from its first request, or from between two, to its end.
    pub(super) async fn serve(&self, mut connection: Connection, mut idle: Duration) {
        let mut first = true;
        loop {
            let (head, rules) = match self.next_head(&mut connection, idle, first).await {
                Ok(head) => head,
                // Over TLS both sides say their ends.
                Err(NoRequest::Gone) if connection.client.secure => return close(connection.stream).await,
                Err(NoRequest::Gone) => return,
                // A request that is on its way now must not meet a reset.
                Err(NoRequest::Idle) => return close(connection.stream).await,
                Err(NoRequest::Refused(response)) => {
                    self.log_refused_head(&connection, response);
                    // Of a head that cannot be read, nothing is believed.
                    let message = self.rules.load().error_pages.message(&response, &Reader::default(), false);
                    return send_and_close(connection.stream, &message).await;
                }
                Err(NoRequest::Http2) => return Box::pin(self.serve_http2(connection)).await,
                Err(NoRequest::Tls) => return secure::refuse_tls(connection.stream, &self.handshakes).await,
                Err(NoRequest::Migrate) => {
                    match Box::pin(give::connection(&mut connection, idle, self.address())).await {
                        true => return,
                        false => continue,
                    }
                }
            };
            idle = rules.limits.keepalive_timeout;
            match self.serve_request(connection, &head, rules).await {
                Some(same) if head.keep_alive => connection = same,
                _ => return,
            }
            if connection.read_ahead.is_empty() {
                // An idle connection holds no buffer.
                connection.read_ahead = BytesMut::new();
            }
            first = false;
        }
    }

    /// Serves one request; gives the connection back when another may follow. The rules may change between two
    /// requests, never during one.
    async fn serve_request(&self, connection: Connection, head: &Head, rules: Arc<Rules>) -> Option<Connection> {
        let buf = &connection.read_ahead;
        let headers = RawHeaders { head, buf };
        let client = RequestClient::of(&rules.clients.forwarding, connection.client, headers);
        let place = admission::request(&rules, &self.registry, &client);
        let place = match place.map_err(|response| (response, "too_many_requests")) {
            Ok(place) => place,
            Err(refusal) => return refuse(connection, head, &rules, &client, None, refusal).await,
        };
        let asked =
            Asked { host: host(head, buf), target: head.target.of(buf), method: head.method_name.of(buf), headers };
        if let Some(port) = self.listener.load().redirect.filter(|_| !client.secure)
            && redirect::applies(asked.target)
        {
            let Some(location) = redirect::https(asked.host, asked.target, port) else {
                return refuse(connection, head, &rules, &client, None, (ErrorResponse::NO_REDIRECT, "redirect")).await;
            };
            log_unserved(&rules, &connection, head, &client, None, (ErrorResponse::TO_HTTPS, "redirect"));
            send_and_close(connection.stream, &redirect::message(&location)).await;
            return None;
        }
        if connection.tls.as_ref().is_some_and(|client| client.is_misdirected(asked.host)) {
            let refusal = (ErrorResponse::MISDIRECTED, "misdirected");
            return refuse(connection, head, &rules, &client, None, refusal).await;
        }
        let route = match rules.route(&asked) {
            Ok(route) => route,
            Err(refusal) => return refuse(connection, head, &rules, &client, None, refusal).await,
        };
        if !route.only_asks_the_app()
            && let Some(answer) = Box::pin(decide::answer(&rules, route, &asked, head.websocket, &client.id)).await
        {
            let next = Box::pin(http1_carrier::answer(&rules, route, connection, head, &client, answer)).await;
            return next.connection();
        }
        let Some(app) = rules.app_of(route) else {
            return refuse(connection, head, &rules, &client, None, (ErrorResponse::NO_ROUTE, "no_route")).await;
        };
        if app.protocol == Protocol::Http2 && head.websocket {
            let refusal = (ErrorResponse::NO_UPGRADE, "no_upgrade");
            return refuse(connection, head, &rules, &client, Some(route), refusal).await;
        }
        if app.protocol == Protocol::Http2 || (rules.carrier == Carrier::Pingora && !head.websocket) {
            return Box::pin(self.pingora.serve_http1(connection, client)).await;
        }
        match http1_carrier::serve(&rules, route, app, &self.registry, connection, head, client).await {
            Next::Request(connection) => Some(connection),
            Next::Tunnel(switched, lease, mut connection, unsent, entry) => {
                connection.guard.hold(place);
                let log = entry.map(|entry| TunnelLog::new(entry, self.rules.clone()));
                let ends = Ends { guard: connection.guard, lease, log, _tunnel: app.metrics.tunnel() };
                let idle = rules.limits.tunnel_idle_timeout;
                let stream = secure::for_tunnel(connection.stream)?;
                let relay = Relay::new(stream, *switched, unsent, connection.read_ahead, idle, ends, &client.id);
                // Of its own task: what the service held for the connection's requests is freed now.
                tokio::spawn(relay.run());
                None
            }
            Next::Closed => None,
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.load().address
    }

    /// A head that was refused is logged as far as it was read.
    fn log_refused_head(&self, connection: &Connection, response: ErrorResponse) {
        if let Some(log) = &self.rules.load().access {
            let mut line = Line::new(log, Facts::of_refused(&connection.read_ahead, connection.client));
            line.trace.refused(&response, "refused_head");
        }
    }

    /// Gives the access log's writer what threads have. Runs as long as the process serves.
    pub(crate) async fn flush_access_log(&self) {
        let counters = self.rules.load().access_counters();
        loop {
            counters.due().await;
            self.rules.load().access.iter().for_each(|log| log.collect());
        }
    }

    /// Opens the access log's file anew: it was moved away.
    pub(crate) fn reopen_access_log(&self) {
        self.rules.load().access.iter().for_each(|log| log.reopen());
    }

    /// Serves a connection that has begun to speak HTTP/2.
    async fn serve_http2(&self, connection: Connection) {
        if self.rules.load().carrier == Carrier::Pingora {
            return self.pingora.serve_http2(connection).await;
        }
        http2::serve(self.rules.clone(), connection, self.pingora.clone()).await;
    }
}

/// The address whose places a new connection takes, if that is known already.
fn limited(listener: &Listener, peer: Option<IpAddr>) -> Option<IpAddr> {
    peer.filter(|_| listener.proxy_protocol.is_none())
}

/// Logs a request that goes to no worker.
fn log_unserved(
    rules: &Rules,
    connection: &Connection,
    head: &Head,
    client: &RequestClient,
    route: Option<&Route>,
    (response, reason): (ErrorResponse, &'static str),
) {
    if let Some(log) = &rules.access {
        let facts = Facts::of_http1(head, &connection.read_ahead, client);
        let app = route.and_then(|route| rules.app_of(route)).map(|app| &*app.pool.app);
        let mut line = Line::new(log, Facts { app, route: route.map(|route| &*route.name), ..facts });
        line.trace.refused(&response, reason);
    }
}

/// Answers a request that goes nowhere, and closes.
async fn refuse(
    connection: Connection,
    head: &Head,
    rules: &Rules,
    client: &RequestClient,
    route: Option<&Route>,
    refusal: (ErrorResponse, &'static str),
) -> Option<Connection> {
    log_unserved(rules, &connection, head, client, route, refusal);
    let reader = Reader::of(RawHeaders { head, buf: &connection.read_ahead }, &client.id);
    let message = rules.error_pages.message(&refusal.0, &reader, head.method == Method::Head);
    send_and_close(connection.stream, &message).await;
    None
}

/// Looks at what was read for a whole head; `None` while it is not whole.
fn parse(connection: &mut Connection, rules: &Rules, scanned: &mut usize) -> Result<Option<Head>, NoRequest> {
    let read = &connection.read_ahead;
    if secure::begins_tls(read) && !connection.client.secure {
        return Err(NoRequest::Tls);
    }
    if connection.may_be_http2 {
        if read.starts_with(HTTP2_PREFACE) {
            return Err(NoRequest::Http2);
        }
        connection.may_be_http2 = HTTP2_PREFACE.starts_with(read);
        if connection.may_be_http2 {
            return Ok(None);
        }
    }
    match head::check(read, *scanned, &rules.head_limits) {
        Ok(Progress::Complete(head)) => Ok(Some(head)),
        Ok(Progress::Partial { scanned: so_far }) => {
            *scanned = so_far;
            Ok(None)
        }
        Err(reject) => Err(NoRequest::Refused(reject.into())),
    }
}

#[async_trait]
impl ServerApp for ProxyService {
    /// When a connection is to end is told by [`ProxyService::set_phase`] alone.
    async fn process_new(self: &Arc<Self>, mut stream: Stream, _shutdown: &ShutdownWatch) -> Option<Stream> {
        let listener = self.listener.load_full();
        let (guard, mut read_ahead) = self.admitted(&mut stream, &listener).await?;
        let head_timeout = self.rules.load().limits.head_timeout;
        let stream = match &listener.tls {
            // A handshake counts as an open connection, and what it needs is freed after it.
            Some(tls) => Box::pin(secure::accept(stream, mem::take(&mut read_ahead), tls, &self.handshakes)).await?,
            None => stream,
        };
        let is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        let mut connection = Connection::new(client_of(&stream), stream, guard);
        connection.read_ahead = read_ahead;
        connection.tls = Some(self.client_tls(&connection.stream));
        let hsts = listener.tls.as_ref().and_then(|tls| tls.load().hsts);
        connection.client.hsts = hsts.map(Hsts::of).filter(|_| connection.client.secure);
        connection.may_be_http2 = listener.h2c && !connection.client.secure;
        drop(listener);
        if is_http2 {
            Box::pin(self.serve_http2(connection)).await;
            return None;
        }
        self.serve(connection, head_timeout).await;
        None
    }

    async fn cleanup(&self) {
        self.pingora.cleanup().await;
    }
}
