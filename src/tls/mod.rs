//! TLS with clients: which certificate and policy a handshake goes by.

#![forbid(unsafe_code)]

pub(crate) mod certificates;
pub(crate) mod client_certificates;
pub(crate) mod metrics;
pub(crate) mod peer;
mod pem;
mod resolver;
pub(crate) mod rules;
mod self_signed;
mod settings;
pub(crate) mod store;
#[cfg(test)]
mod tests;
mod tickets;

pub(crate) use pem::Fault;
pub(crate) use self_signed::names as self_signed_names;
pub(crate) use tickets::TicketKeys;
