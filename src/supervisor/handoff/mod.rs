//! The supervisor's part in a handoff: the [`predecessor`] pauses and gives its workers away, the [`successor`] stands
//! by and takes them over. The conversation between the two processes is `crate::handoff`.

mod predecessor;
mod successor;

pub(super) use predecessor::{Predecessor, disconnect_workers};
pub(crate) use successor::TakeoverHandle;
pub(super) use successor::{Reports, Takeover, TakeoverState, takeover_channels};
