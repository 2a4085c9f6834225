//! TLS with clients: the handshake, the stream that follows, and what both go by.
//!
//! It knows streams and rustls, and nothing of HTTP.

#![forbid(unsafe_code)]

pub(crate) mod handshake;
pub(crate) mod peer;
pub(crate) mod record;
pub(crate) mod rules;
mod session;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
