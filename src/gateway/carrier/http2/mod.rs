//! HTTP/2 with the client, on the `h2` crate.

mod budget;
mod connection;
mod counted;
mod shared;
mod stall;
mod stream;

pub(in crate::gateway) use connection::serve;
