//! HTTP/2 with the client, on the `h2` crate.
//!
//! - [`connection`]: one connection in one task: accepts streams and runs them, GOAWAY, PING
//! - [`stream`]: one request and its response; the client's half of an exchange
//! - [`budget`], [`stall`]: how much may wait for the client on all streams together, and for how long
//! - [`counted`]: the client's stream, which counts what the client has taken; [`shared`]: what streams and connection
//!   share

mod budget;
mod connection;
mod counted;
mod shared;
mod stall;
mod stream;

pub(in crate::gateway) use connection::serve;
