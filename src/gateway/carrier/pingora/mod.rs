//! Pingora's `ProxyHttp` under the same rules: carries requests to workers that speak HTTP/2 and, by
//! `server.http: pingora`, all plain requests, as a reference for the own path. What Pingora cannot hold stands in
//! docs/configuration.md, and as `instead` in the table of tests/e2e/rules/.

mod asker;
mod connection;
mod context;
mod filters;
mod first_body;
mod local;

use crate::gateway::downstream::client_tls::ClientTls;
use crate::gateway::downstream::connection::Connection;
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::exchange::session_carrier::{Carried, SessionCarrier};
use crate::gateway::places::Place;
use crate::gateway::request::client::RequestClient;
use crate::gateway::rules::SharedRules;
use context::{ASKER, HSTS};
use filters::Proxy;
use pingora_core::apps::{HttpServerApp, HttpServerOptions};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use std::sync::Arc;

/// Serves connections by Pingora.
#[derive(Clone)]
pub(in crate::gateway) struct PingoraCarrier {
    proxy: Arc<HttpProxy<Proxy>>,
    rules: SharedRules,
    registry: Arc<ConnectionRegistry>,
}

impl PingoraCarrier {
    pub(in crate::gateway) fn new(
        rules: SharedRules,
        conf: &Arc<ServerConf>,
        registry: Arc<ConnectionRegistry>,
    ) -> PingoraCarrier {
        let proxy = Proxy::new(rules.clone(), registry.clone());
        let mut proxy = pingora_proxy::http_proxy(conf, proxy);
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        proxy.server_options = Some(options);
        PingoraCarrier { proxy: Arc::new(proxy), rules, registry }
    }

    /// Serves the request whose head begins what was read; gives the connection back when another may follow.
    pub(in crate::gateway) async fn serve_http1(
        &self,
        connection: Connection,
        asker: RequestClient,
    ) -> Option<Connection> {
        let Connection { client, stream, mut read_ahead, guard, tls, .. } = connection;
        let keep_alive = self.rules.load().limits.keepalive_timeout.as_secs().max(1);
        let stays = !guard.directive().ends();
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(read_ahead.split());
        session.set_keepalive(stays.then_some(keep_alive));
        let closing = self.registry.closing();
        let carried = ASKER.scope(asker, self.proxy.process_new_http(session, &closing));
        let carried = ClientTls::scope(tls.clone(), carried);
        let reused = HSTS.scope(client.hsts, carried).await?;
        // What Pingora has read beyond the request ends the connection, so nothing is lost here.
        let (stream, _) = reused.consume();
        let mut connection = Connection::new(client, stream, guard);
        connection.tls = tls;
        Some(connection)
    }

    /// Serves an HTTP/2 connection to its end.
    pub(in crate::gateway) async fn serve_http2(&self, connection: Connection) {
        let Some(Connection { client, stream, guard, tls, .. }) = connection.rewound() else { return };
        let account = guard.client().map(Place::account);
        connection::serve(&self.proxy, &self.rules, &self.registry, client.hsts, stream, account, tls).await;
        drop(guard);
    }

    pub(in crate::gateway) async fn cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

impl SessionCarrier for PingoraCarrier {
    fn carry(&self, session: ServerSession, client: RequestClient) -> Carried<'_> {
        Box::pin(async move {
            let closing = self.registry.closing();
            // Such a session leaves no connection behind.
            let _ = ASKER.scope(client, self.proxy.process_new_http(session, &closing)).await;
        })
    }
}
