//! What the connections of a listener meet: everything but its address changes by a reload.

use super::request::networks::Networks;
use crate::tls::rules::SharedTlsRules;
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// What is spoken here is HTTP over TLS.
    pub(crate) tls: Option<SharedTlsRules>,
    /// Clients may speak HTTP/2 without TLS, from their first byte.
    pub(crate) h2c: bool,
    /// Requests are sent to https at this port.
    pub(crate) redirect: Option<u16>,
    /// Connections come from load balancers in these networks, and begin with a PROXY header.
    pub(crate) proxy_protocol: Option<Networks>,
}

/// The listener in force. A connection looks at it as it begins, and at `redirect` for each of its requests.
pub(crate) type SharedListener = Arc<ArcSwap<Listener>>;

impl Listener {
    /// For plain HTTP, and nothing else.
    pub(crate) fn plain(address: SocketAddr) -> Listener {
        Listener { address, tls: None, h2c: false, redirect: None, proxy_protocol: None }
    }

    pub(crate) fn shared(self) -> SharedListener {
        Arc::new(ArcSwap::from_pointee(self))
    }
}
