//! How one carrier gives a request to another: as a session of Pingora's, behind which the client's side stays where
//! it was.

use crate::gateway::request::client::RequestClient;
use pingora_core::protocols::http::ServerSession;
use std::future::Future;
use std::pin::Pin;

/// What a session's reading fails with when the worker has not begun to answer within `response_timeout`.
pub(in crate::gateway) const NO_RESPONSE: &str = "no response within response_timeout";

/// Carries single requests, to the end of each.
pub(in crate::gateway) trait SessionCarrier: Send + Sync {
    /// The request's head has been checked, and its stream has its place in the account. `client` asks.
    fn carry(&self, session: ServerSession, client: RequestClient) -> Carried<'_>;
}

pub(in crate::gateway) type Carried<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
