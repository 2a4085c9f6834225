//! What is configured.

use super::redact::Redact;
use super::template::Format;
use crate::process::output::Target;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) target: Target,
    pub(crate) format: Format,
    pub(crate) redact: Redact,
    /// Share of the requests that are logged, 0 to 1; those that fail always are.
    pub(crate) sample: f64,
    /// A tunnel has a line at its beginning, too.
    pub(crate) tunnel_begin: bool,
}
