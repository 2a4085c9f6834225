//! How much memory may still be used: by the machine, and by the control groups around us
//! (cgroups(7), "memory.max" and "memory.current" of version 2).

use std::fs;
use std::path::{Path, PathBuf};

/// Where version 2 is mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes; `None` when nothing says.
pub(crate) fn head_room() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available(&text));
    let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group(&text));
    let groups = own.and_then(|own| free_in(Path::new(GROUPS), &own));
    [machine, groups].into_iter().flatten().min()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Our group's path below the mount.
fn group(text: &str) -> Option<PathBuf> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(path))
}

/// The least that our group or any around it has left.
fn free_in(mount: &Path, own: &Path) -> Option<u64> {
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let free = |dir: &Path| {
        let dir = mount.join(dir);
        // "max" is no number: no limit here.
        Some(number(dir.join("memory.max"))?.saturating_sub(number(dir.join("memory.current"))?))
    };
    own.ancestors().filter_map(free).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts() {
        let dir = std::env::temp_dir().join(format!("pup-cgroup-{}", std::process::id()));
        fs::create_dir_all(dir.join("a/b")).unwrap();
        let write = |path: &str, text: &str| fs::write(dir.join(path), text).unwrap();
        write("a/memory.max", "1000\n");
        write("a/memory.current", "400\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "300\n");
        assert_eq!(free_in(&dir, Path::new("a/b")), Some(600));
        assert_eq!(free_in(&dir, Path::new("c")), None);
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(available("MemTotal: 5 kB\nMemAvailable:   3 kB\n"), Some(3072));
        assert_eq!(group("1:name=x:/y\n0::/a/b\n"), Some("a/b".into()));
        assert!(head_room().is_some_and(|free| free > 1 << 20));
    }
}
