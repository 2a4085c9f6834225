//! What is decided about a request and a response: pure functions and values over heads, the same for every carrier.
//!
//! Nothing here reads, writes or waits. A carrier that is added later takes its rules from here.

pub(super) mod body;
pub(super) mod client;
pub(super) mod error_pages;
pub(super) mod error_response;
pub(super) mod fields;
pub(super) mod file_request;
pub(super) mod forwarded;
pub(super) mod forwarding;
pub(super) mod heads;
pub(super) mod hsts;
pub(super) mod http2_head;
pub(super) mod limits;
pub(super) mod networks;
pub(super) mod passes;
pub(super) mod path;
pub(super) mod plan;
pub(super) mod rate;
pub(super) mod redirect;
pub(super) mod request_id;
pub(super) mod retry;
pub(super) mod route;
pub(super) mod route_table;
pub(super) mod session;
// `fuzz/` and `benches/` include this file from elsewhere.
pub(crate) mod socketio;
