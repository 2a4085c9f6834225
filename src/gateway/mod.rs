//! Traffic: from a listener to a worker and back.
//!
//! From the top, each part knows only those below it:
//!
//! - [`migration::adopt`]: makes connections and tunnels of another process ready to go on here
//! - [`service`]: owns each accepted connection, reads heads, finds the app, chooses the carrier
//! - [`carrier`]: HTTP/1, HTTP/2, and Pingora's `ProxyHttp`; [`tunnel`]: WebSockets after their 101
//! - [`exchange`]: one request and its response, for both own carriers: workers, retries, limits, counters
//! - [`upstream`]: the worker's side. Of clients it knows only that they need file descriptors
//! - [`migration::give`]: gives connections to another process
//! - [`downstream`]: the client's side. Knows no worker
//! - [`local`]: what the proxy answers itself by its routes: files, redirects, fixed answers
//! - [`migration::format`], [`metrics`], [`rules`], [`access`], [`descriptors`], [`places`]: what they share
//! - [`request`]: what is decided about a request, pure
//! - [`http1`]: the codec, pure

#![forbid(unsafe_code)]

mod access;
mod carrier;
mod descriptors;
mod downstream;
mod exchange;
pub(crate) mod http1;
mod listener;
mod local;
mod metrics;
mod migration;
mod places;
mod request;
mod rules;
mod service;
#[cfg(test)]
mod tests;
mod tunnel;
mod upstream;

pub(crate) use access::{Format as AccessFormat, Policy as AccessPolicy, Redact, Unknown as UnknownVariable};
pub(crate) use downstream::connections::{Paused, Phase};
pub(crate) use listener::{Listener, SharedListener};
pub(crate) use migration::adopt::Adopted;
pub(crate) use request::error_pages::{ErrorPage, ErrorPages, Statuses};
pub(crate) use request::file_request::content_type;
pub(crate) use request::forwarding::{Forwarding, RequestIds};
pub(crate) use request::networks::Networks;
pub(crate) use request::passes::LoopName;
pub(crate) use request::path::normal as normal_path;
pub(crate) use request::rate::Rate;
pub(crate) use request::route::{
    Action, Files, HeaderRule, HeaderValue, PLACEHOLDERS, PathRule, Redirect, Rewrite, Route, RouteLimits, StaticAnswer,
};
pub(crate) use request::route_table::{Routes, check_pattern};
pub(crate) use rules::{App, Carrier, ClientLimits, Clients, Limits, Protocol, Rules, SharedRules};
pub(crate) use service::ProxyService;
