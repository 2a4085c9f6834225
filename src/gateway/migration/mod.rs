//! Connections on their way to another process.

pub(super) mod adopt;
pub(super) mod format;
pub(super) mod give;
