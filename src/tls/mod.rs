//! TLS with clients: handshakes, the certificates and rules they go by, and streams.

#![forbid(unsafe_code)]

pub(crate) mod handshake;
pub(crate) mod peer;
pub(crate) mod record;
pub(crate) mod rules;
mod session;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
