//! The worker's side: which worker takes a request, and a connection to it. Knows no client.

pub(super) mod acquire;
pub(super) mod connect;
pub(super) mod idle_pool;
