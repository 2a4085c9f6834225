//! What the streams of one connection share, and what each tells it.

use super::budget::Budget;
use crate::gateway::downstream::connections::ConnectionRegistry;
use crate::gateway::request::heads::ClientInfo;
use crate::gateway::rules::SharedRules;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) rules: SharedRules,
    pub(super) registry: Arc<ConnectionRegistry>,
    pub(super) client: ClientInfo,
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
