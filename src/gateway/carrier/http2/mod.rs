//! HTTP/2 with the client, on the `h2` crate.
//!
//! - [`connection`]: one connection in one task: accepts streams and runs them, GOAWAY, PING
//! - [`stream`]: one request and its response; the client's half of an exchange
//! - [`delegated`]: a stream whose worker speaks HTTP/2, too, is given to another carrier, as a [`session`] of its own over
//!   which [`watch`] holds the limits
//! - [`answer`], [`refusal`]: what is sent to the client, by either
//! - [`budget`], [`stall`]: how much may wait for the client on all streams together, and for how long
//! - [`counted`]: the client's stream, which counts what the client has taken; [`shared`]: what streams and connection
//!   share

mod answer;
mod budget;
mod connection;
mod counted;
mod delegated;
mod refusal;
mod session;
mod shared;
mod stall;
mod stream;
mod watch;

pub(in crate::gateway) use connection::serve;
