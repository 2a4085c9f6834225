//! A carrier reads a request from a client and gives it the response. None knows another.
//!
//! - [`http1`] and [`http2`] each speak one protocol with the client; the rest of their way is [`super::exchange`]
//! - [`pingora`] speaks both by Pingora's `ProxyHttp`, and holds the same rules as far as that has hooks for them

pub(super) mod http1;
pub(super) mod http2;
pub(super) mod pingora;
