//! What may call for a person, on its way to whoever delivers it.

pub(crate) use crate::fleet::Alarm as Kind;
use crate::worker::Slot;
use std::sync::Arc;

/// An alarm that begins, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raised {
    pub(super) kind: Kind,
    pub(super) app: Arc<str>,
    /// `None` when it is about the app as a whole.
    pub(super) slot: Option<Slot>,
    /// For people; may have several lines.
    pub(super) detail: String,
}

/// Who delivers alarms. Called by the task that keeps the workers: it must not wait.
pub(super) trait Hook: Send + Sync {
    fn raise(&self, raised: Raised);
    /// It is over. Also called for alarms that were never raised.
    fn clear(&self, kind: Kind, app: &Arc<str>, slot: Option<Slot>);
}
