//! Those that carry requests: each speaks one protocol with the client, and none knows another.

pub(super) mod http1;
pub(super) mod http2;
pub(super) mod pingora;
