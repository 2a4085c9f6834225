//! The client's side. Knows no worker.
//!
//! - [`connection`]: a client's connection between two requests
//! - [`connections`]: the registry of all of them, by which each learns that it must end, stop or move
//! - [`clients`]: what each client address has, and who was turned away for it
//! - [`proxy_protocol`]: who a load balancer says that the client is
//! - [`close`]: its end, so that what was sent last arrives
//! - [`deadline`], [`scratch`]: the one timer of a connection, and the read buffer of a thread
//! - [`secure`]: TLS at its begin
//! - [`client_tls`]: what a client is to a listener with TLS
//! - [`http2_settings`]: what an HTTP/2 client is granted

pub(super) mod client_tls;
pub(super) mod clients;
pub(super) mod close;
pub(super) mod connection;
pub(super) mod connections;
pub(super) mod deadline;
pub(super) mod http2_settings;
pub(super) mod proxy_protocol;
pub(super) mod scratch;
pub(super) mod secure;
