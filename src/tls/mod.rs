//! TLS with clients: which certificate and policy a handshake goes by.

#![forbid(unsafe_code)]

pub(crate) mod peer;
pub(crate) mod rules;
