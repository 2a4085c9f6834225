//! TLS with clients: the handshake, the stream that follows, and what both go by.
//!
//! It knows streams and rustls, and nothing of HTTP.

#![forbid(unsafe_code)]

pub(crate) mod certificates;
pub(crate) mod client_certificates;
pub(crate) mod handshake;
pub(crate) mod metrics;
pub(crate) mod peer;
mod pem;
pub(crate) mod record;
mod resolver;
pub(crate) mod rules;
mod self_signed;
mod session;
mod settings;
pub(crate) mod store;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
mod tickets;

pub(crate) use pem::Fault;
pub(crate) use self_signed::names as self_signed_names;
pub(crate) use tickets::TicketKeys;
