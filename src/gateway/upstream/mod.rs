//! The worker's side of a request:
//!
//! - [`acquire`]: which worker takes it, and the wait in the app's queue
//! - [`idle_pool`]: a connection to that worker that is kept from an earlier request
//! - [`connect`]: else a new one
//!
//! It knows no client.

pub(super) mod acquire;
pub(super) mod connect;
pub(super) mod idle_pool;
