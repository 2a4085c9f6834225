//! What is believed of what clients and proxies before us say, and what is passed on of it.

use super::networks::Networks;

/// Whose `X-Request-Id` is kept, if it is well formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestIds {
    /// Those of trusted proxies; every other request gets a new one.
    #[default]
    Trusted,
    /// Those of all clients.
    Any,
    /// None is made, and the field passes as any other does.
    Off,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forwarding {
    /// Peers whose X-Forwarded-* are believed, and who are no clients themselves.
    pub(crate) trusted: Networks,
    /// Workers get `Forwarded` (RFC 7239), too.
    pub(crate) forwarded: bool,
    pub(crate) request_id: RequestIds,
    /// A request without a trace begins one.
    pub(crate) begins_traces: bool,
    /// Names with `_` pass, but for those that servers read as another that matters.
    pub(crate) underscores: bool,
}
