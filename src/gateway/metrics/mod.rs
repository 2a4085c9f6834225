//! What traffic counts, and how it is told.

pub(super) mod collector;
pub(super) mod counters;
