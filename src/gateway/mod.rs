//! Traffic: from a listener to a worker and back.
//!
//! From the top, each part knows only those below it:
//!
//! - [`service`]: accepts connections, reads heads, finds the app, chooses the carrier
//! - [`migration::adopt`]: takes connections of another process
//! - [`carrier`]: HTTP/1, HTTP/2, and Pingora's `ProxyHttp`; [`tunnel`]: WebSockets after their 101
//! - [`exchange`]: one request and its response, for every carrier: workers, retries, limits, counters
//! - [`upstream`]: the worker's side; [`downstream`]: the client's side; neither knows the other
//! - [`migration::format`], [`metrics`], [`rules`], [`descriptors`]: what they share
//! - [`request`]: what is decided about a request, pure
//! - [`http1`]: the codec

#![forbid(unsafe_code)]

mod carrier;
mod descriptors;
mod downstream;
mod exchange;
pub(crate) mod http1;
mod metrics;
mod migration;
mod request;
mod rules;
mod service;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;

pub(crate) use downstream::connections::{Paused, Phase};
pub(crate) use migration::adopt::Adopted;
pub(crate) use migration::format::ConnectionTransfer;
pub(crate) use request::route::Route;
pub(crate) use rules::{App, Carrier, Limits, Protocol, Rules, SharedRules};
pub(crate) use service::ProxyService;
pub(crate) use upstream::idle_pool::{EVENTS_AT_ONCE, after_look, before_look};
