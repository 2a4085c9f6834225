//! What the kernel tells of a process that does not answer any more (proc(5)).

use std::fs;

/// Lines of a stack that are worth showing.
const FRAMES: usize = 8;
/// Open files are counted up to here.
const FILES: usize = 100_000;

/// Facts, each a short text; whatever cannot be read is left out. Reads do not wait for the process.
pub(crate) fn of(pid: u32) -> Vec<String> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let text = |name: &str| read(name).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    let mut facts = Vec::new();
    if let Some(state) = text("stat").as_deref().and_then(state) {
        facts.push(format!("state: {state}"));
    }
    if let Some(channel) = text("wchan").filter(|channel| !channel.is_empty() && channel != "0") {
        facts.push(format!("waits in: {channel}"));
    }
    if let Some(stack) = text("stack").filter(|stack| !stack.is_empty()) {
        let frames = stack.lines().take(FRAMES).map(|line| line.split_whitespace().last().unwrap_or(line));
        facts.push(format!("kernel stack: {}", frames.collect::<Vec<_>>().join(" < ")));
    }
    if let Ok(list) = fs::read_dir(format!("/proc/{pid}/fd")) {
        facts.push(format!("open files: {}", list.take(FILES).count()));
    }
    if facts.is_empty() {
        facts.push("nothing can be seen of it".to_owned());
    }
    facts
}

/// The letter behind the name, which may hold anything, and what it means.
fn state(stat: &str) -> Option<String> {
    let letter = stat.rsplit_once(") ")?.1.chars().next()?;
    let meaning = match letter {
        'R' => "running: an endless loop, or a processor that is too busy",
        'S' => "sleeping",
        'D' => "waits for a disk or a file system",
        'T' => "stopped by a signal",
        't' => "stopped by a debugger",
        'Z' => "ended",
        _ => "",
    };
    Some(format!("{letter} ({meaning})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_state_can_be_seen() {
        let facts = of(std::process::id()).join("; ");
        assert!(facts.contains("state: ") && facts.contains("open files: "), "{facts}");
        assert_eq!(state("1 (a) T) T 1").as_deref(), Some("T (stopped by a signal)"));
        assert_eq!(of(u32::MAX), ["nothing can be seen of it"]);
    }
}
