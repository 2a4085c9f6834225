//! The record layer of TLS 1.3 (RFC 8446, section 5), for connections that need no more of TLS than that: tunnels.
//!
//! A tunnel leaves rustls at its 101. From there on all that is left of TLS is to seal and open records and to change keys,
//! and a state that is small enough to be written down: so the connection can go on in another process.
//!
//! **One writer only.** A record's nonce is made of its number. Two processes that seal with one key and one number give away
//! both texts and the means to forge more. So whoever hands a state over seals nothing any more, unless whoever was to
//! take it surely never will; and whoever takes it seals nothing before it is surely his. `handoff/` keeps both rules.
//!
//! - [`keys`]: secrets and what is derived of them
//! - [`layer`]: records opened and sealed; no input, no output
//! - [`state`]: a record layer and the bytes around it, written down
//! - [`secrets`]: a handshake's secrets, taken out of rustls
//! - [`convert`]: a connection of rustls becomes a record layer
//! - [`stream`]: a record layer over a socket

pub(crate) mod convert;
mod keys;
mod layer;
pub(crate) mod secrets;
pub(crate) mod state;
pub(crate) mod stream;

#[cfg(test)]
pub(crate) mod tests;
