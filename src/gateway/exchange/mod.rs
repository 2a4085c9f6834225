//! One request and its response, over HTTP/1 and HTTP/2 alike. (Pingora's carrier has an exchange of its own.)
//!
//! - [`client`]: what a carrier must be able to do for the client: its half of an exchange
//! - [`transfer`]: both directions between that half and one worker's connection ([`sides`]), in one poll loop:
//!   [`upload`], [`download`], and for how long each side is waited for ([`waits`])
//! - [`dispatch`]: chooses workers, decides on retries, counts; a carrier calls this once per request. [`fault`]: why
//!   one try failed
//! - [`local`]: an answer of the proxy's own, given as a worker's
//! - [`admission`]: places for connections and streams, before any request, and what one client address may have
//! - [`upload_share`]: of an app's places, those that one address may hold by bodies that are on their way
//! - [`session_carrier`]: how a carrier gives single requests to another

pub(super) mod admission;
pub(super) mod client;
pub(super) mod dispatch;
mod download;
mod fault;
pub(super) mod local;
pub(super) mod session_carrier;
mod sides;
pub(super) mod transfer;
mod upload;
pub(super) mod upload_share;
mod waits;
