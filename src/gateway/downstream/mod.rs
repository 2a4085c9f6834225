//! The client's side: its connection, when it must end, and how it is closed. Knows no worker.

pub(super) mod close;
pub(super) mod connection;
pub(super) mod connections;
pub(super) mod deadline;
pub(super) mod http2_settings;
pub(super) mod scratch;
