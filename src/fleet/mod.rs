//! Pure rules of the workers' lifecycle: no clock, no I/O.

pub(crate) mod policy;
