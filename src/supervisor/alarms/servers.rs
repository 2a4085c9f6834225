//! Whether the workers of an app have the same servers: a request must not depend on who gets it.

use crate::fleet::State;
use crate::supervisor::status::{AppStatus, Ports};
use crate::worker::{Generation, Slot};
use std::collections::BTreeMap;

/// In what the ready workers of a generation differ, for people. What becomes of a further port may differ: one has it,
/// and the others wait for it.
pub(super) fn differing(app: &AppStatus) -> Option<String> {
    let mut generations: BTreeMap<Generation, BTreeMap<String, Vec<Slot>>> = BTreeMap::new();
    for worker in app.workers.iter().filter(|worker| worker.state == State::Ready) {
        let same = generations.entry(worker.generation).or_default();
        same.entry(said(&worker.ports)).or_default().push(worker.slot);
    }
    let (generation, parts) = generations.into_iter().find(|(_, parts)| parts.len() > 1)?;
    let parts = parts.into_iter().map(|(servers, slots)| {
        let slots: Vec<String> = slots.iter().map(Slot::to_string).collect();
        let plural = if slots.len() == 1 { "" } else { "s" };
        format!("worker{plural} {}: {servers}", slots.join(", "))
    });
    let parts = parts.collect::<Vec<_>>().join("; ");
    Some(format!(
        "workers of generation {generation} have different servers (the key port says which is public): {parts}"
    ))
}

fn said(ports: &Ports) -> String {
    let main = ports.main.map_or("on any port".to_owned(), |port| format!("on port {port}"));
    let further: Vec<String> = ports.further.keys().map(u16::to_string).collect();
    let further = if further.is_empty() { String::new() } else { format!(", further ports {}", further.join(", ")) };
    format!("main server {main}{further}")
}
