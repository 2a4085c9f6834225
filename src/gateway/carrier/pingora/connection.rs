//! An HTTP/2 connection that Pingora serves, under the time-outs of every connection: Pingora has none for a head, closes an
//! idle connection without a GOAWAY, and waits for a body's end even after its answer.

use super::context::{ANSWERED_EARLY, HSTS};
use super::filters::Proxy;
use crate::gateway::downstream::client_tls::ClientTls;
use crate::gateway::downstream::connections::{ConnectionRegistry, StreamGuard};
use crate::gateway::downstream::http2_settings;
use crate::gateway::exchange::admission;
use crate::gateway::places::Account;
use crate::gateway::request::hsts::Hsts;
use crate::gateway::rules::{Limits, SharedRules};
use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// Serves a connection to its end.
pub(super) async fn serve(
    proxy: &Arc<HttpProxy<Proxy>>,
    rules: &SharedRules,
    registry: &Arc<ConnectionRegistry>,
    hsts: Option<Hsts>,
    stream: Stream,
    account: Option<Account>,
    tls: Option<ClientTls>,
) {
    let limits = rules.load().limits.clone();
    let (end, shutdown) = watch::channel(false);
    let mut closing = registry.closing();
    let streams = Streams::new(proxy.clone(), rules.clone(), registry.clone(), limits.clone(), account, hsts, tls);
    let streams = Arc::new(streams);
    let mut served = pin!(ServerApp::process_new(&streams, stream, &shutdown));
    tokio::select! {
        biased;
        _ = &mut served => return,
        () = streams.idle(limits.head_timeout, limits.keepalive_timeout) => {}
        _ = closing.changed() => {}
    }
    // A GOAWAY goes out, and what has begun is answered.
    end.send_replace(true);
    tokio::select! {
        biased;
        _ = &mut served => {}
        // What is done here may still be on its way to a slow client.
        () = streams.idle(limits.body_timeout, limits.body_timeout) => {}
    }
}

/// The requests of one connection.
struct Streams {
    proxy: Arc<HttpProxy<Proxy>>,
    rules: SharedRules,
    registry: Arc<ConnectionRegistry>,
    limits: Limits,
    /// Of the client's address.
    account: Option<Account>,
    tls: Option<ClientTls>,
    hsts: Option<Hsts>,
    open: AtomicUsize,
    has_begun: AtomicBool,
    changed: Notify,
}

impl Streams {
    fn new(
        proxy: Arc<HttpProxy<Proxy>>,
        rules: SharedRules,
        registry: Arc<ConnectionRegistry>,
        limits: Limits,
        account: Option<Account>,
        hsts: Option<Hsts>,
        tls: Option<ClientTls>,
    ) -> Streams {
        let (open, has_begun, changed) = Default::default();
        Streams { proxy, rules, registry, limits, account, hsts, tls, open, has_begun, changed }
    }

    /// Ends when there was no request for so long: `first` as long as none has come.
    async fn idle(&self, first: Duration, next: Duration) {
        loop {
            if self.open.load(Ordering::Acquire) > 0 {
                self.changed.notified().await;
                continue;
            }
            let limit = if self.has_begun.load(Ordering::Acquire) { next } else { first };
            if timeout(limit, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// `None`: the connection has a request already, and there is no place for another one.
    fn begin(&self) -> Option<Open<'_>> {
        self.has_begun.store(true, Ordering::Release);
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
        let mut open = Open { streams: self, _place: None };
        if before > 0 {
            open._place = Some(admission::stream(&self.rules.load(), &self.registry, self.account.as_ref())?);
        }
        Some(open)
    }
}

/// A request that is open.
struct Open<'a> {
    streams: &'a Streams,
    /// Of one beyond the connection's first.
    _place: Option<StreamGuard>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.streams.open.fetch_sub(1, Ordering::AcqRel);
        self.streams.changed.notify_one();
    }
}

#[async_trait]
impl HttpServerApp for Streams {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let Some(_open) = self.begin() else {
            self.registry.descriptors().note_refusal();
            // The client may send it again, here or elsewhere (RFC 9113, section 8.7).
            session.shutdown_with_reason(h2::Reason::REFUSED_STREAM);
            return None;
        };
        let answered_early = Arc::new(Notify::new());
        let request = ClientTls::scope(self.tls.clone(), self.proxy.process_new_http(session, shutdown));
        let request = HSTS.scope(self.hsts, ANSWERED_EARLY.scope(answered_early.clone(), request));
        let given_up = async {
            answered_early.notified().await;
            sleep(self.limits.body_timeout).await;
        };
        tokio::select! {
            biased;
            reused = request => reused,
            // The stream is reset with NO_ERROR: the client need not send the rest (RFC 9113, section 8.1).
            () = given_up => None,
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(http2_settings::MAX_STREAMS)
            .initial_window_size(http2_settings::STREAM_WINDOW)
            .initial_connection_window_size(http2_settings::CONNECTION_WINDOW)
            .max_send_buffer_size(http2_settings::SEND_BUFFER)
            .max_header_list_size(http2_settings::header_list_size(self.limits.head_bytes));
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}
