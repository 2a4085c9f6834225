//! What a worker uses: its process and all that descend from it. `npm start`, a TypeScript runner or a shell stand in
//! front of the process that serves, and that one may have helpers: memory and processor time are the worker's as a whole.
//!
//! Read once a second for every worker. A process costs two small reads of /proc: its `stat` (proc_pid_stat(5)), and the
//! children of its main thread (proc_tid_children(5)); children of its other threads are looked for now and then only.

use super::usage::{Stat, Usage};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

/// Processes of one worker that are counted.
const MOST: usize = 256;
/// Of so many looks one asks all threads of each process for children.
const THREADS_EVERY: u32 = 8;

/// What is known of a worker's processes from the last look.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    seen: HashMap<u32, Known>,
    /// Processor time of all of them since the first look, also of those that have ended.
    cpu: Duration,
    looks: u32,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    started: u64,
    cpu: Duration,
}

/// What they use together, and what of the processors since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) all: Usage,
    /// `None` at the first look.
    pub(crate) lately: Option<Duration>,
}

impl Tree {
    /// `roots` are the process that was started and the one that serves, which need not descend from it. What has been
    /// counted once stays until it ends, also when its parent does. `None`: all are gone.
    pub(crate) fn look(&mut self, roots: impl IntoIterator<Item = u32>) -> Option<Used> {
        let (is_first, all_threads) = (self.looks == 0, self.looks.is_multiple_of(THREADS_EVERY));
        self.looks = self.looks.wrapping_add(1);
        let before = std::mem::take(&mut self.seen);
        let mut pids: Vec<u32> = roots.into_iter().collect();
        let roots = pids.len();
        pids.extend(before.keys());
        let known = pids.len();
        let (mut all, mut lately) = (Usage::default(), Duration::ZERO);
        let mut at = 0;
        while let Some(&pid) = pids.get(at).filter(|_| self.seen.len() < MOST) {
            let is_new = at < roots || at >= known;
            at += 1;
            if self.seen.contains_key(&pid) {
                continue;
            }
            let Ok(stat) = Stat::of(pid, &mut self.buffer) else { continue };
            let same = before.get(&pid).filter(|known| known.started == stat.started);
            if same.is_none() && !is_new {
                // A stranger has got the number.
                continue;
            }
            lately += stat.usage.cpu.saturating_sub(same.map_or(Duration::ZERO, |known| known.cpu));
            all.rss += stat.usage.rss;
            all.threads += stat.usage.threads;
            self.seen.insert(pid, Known { started: stat.started, cpu: stat.usage.cpu });
            self.children(pid, all_threads && stat.usage.threads > 1, &mut pids);
        }
        if self.seen.is_empty() {
            return None;
        }
        self.cpu += lately;
        all.cpu = self.cpu;
        Some(Used { all, lately: (!is_first).then_some(lately) })
    }

    fn children(&mut self, pid: u32, all_threads: bool, found: &mut Vec<u32>) {
        let Tree { buffer, .. } = self;
        let mut of_thread = |thread: &str| {
            buffer.clear();
            let read = File::open(format!("/proc/{pid}/task/{thread}/children"));
            // A kernel without these lists: only the roots are counted.
            if read.and_then(|mut file| file.read_to_end(buffer)).is_ok() {
                let text = std::str::from_utf8(buffer).unwrap_or_default();
                found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
        };
        if !all_threads {
            return of_thread(&pid.to_string());
        }
        for thread in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            of_thread(&thread.file_name().to_string_lossy());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            // The shell's children end with its standard input.
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    fn shell(script: &str) -> Ended {
        let mut command = Command::new("sh");
        Ended(command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn until(tree: &mut Tree, pid: u32, fits: impl Fn(&Tree, Used) -> bool) -> Used {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let used = tree.look([pid]).expect("a living process");
            if fits(tree, used) {
                return used;
            }
            assert!(Instant::now() < end, "{used:?} {tree:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_launcher_counts_with_what_it_has_started() {
        let launcher = shell("(cat; exit) & (cat; exit); wait");
        let mut tree = Tree::default();
        // A process that was just forked has no memory of its own yet.
        let is_more = |used: &Used| Usage::of(launcher.0.id()).is_ok_and(|alone| used.all.rss > alone.rss);
        let used = until(&mut tree, launcher.0.id(), |tree, used| tree.seen.len() >= 3 && is_more(&used));
        let alone = Usage::of(launcher.0.id()).unwrap();
        assert!(used.all.rss > alone.rss && used.all.threads >= 3, "{used:?} {alone:?}");
    }

    #[test]
    fn time_of_the_processors_is_summed_also_over_those_that_have_ended() {
        let launcher = shell("sh -c 'i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done'; read x");
        let mut tree = Tree::default();
        assert_eq!(tree.look([launcher.0.id()]).unwrap().lately, None);
        let pid = launcher.0.id();
        let least = Duration::from_millis(50);
        let busy = until(&mut tree, pid, |tree, used| tree.seen.len() == 2 && used.all.cpu > least);
        let idle = until(&mut tree, pid, |tree, _| tree.seen.len() == 1);
        assert!(idle.all.cpu >= busy.all.cpu);
        assert_eq!(Tree::default().look([u32::MAX]), None);
    }
}
