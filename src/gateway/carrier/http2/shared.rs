//! What the streams of one connection share, and what each tells it.

use super::budget::Budget;
use crate::gateway::downstream::client_tls::ClientTls;
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::exchange::session_carrier::SessionCarrier;
use crate::gateway::request::client::ClientInfo;
use crate::gateway::rules::SharedRules;
use pingora_core::protocols::Digest;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) rules: SharedRules,
    pub(super) registry: Arc<ConnectionRegistry>,
    pub(super) client: ClientInfo,
    pub(super) tls: Option<ClientTls>,
    /// For streams whose workers speak HTTP/2.
    pub(super) peers: Arc<dyn SessionCarrier>,
    pub(super) digest: Arc<Digest>,
    /// Bounds what waits for the client of all answers together.
    pub(super) budget: Arc<Budget>,
    /// Bytes that the client has taken.
    pub(super) written: Arc<AtomicU64>,
}

/// How a stream ended.
pub(super) struct StreamEnd {
    /// The client reset it before its answer was whole.
    pub(super) was_reset: bool,
}
