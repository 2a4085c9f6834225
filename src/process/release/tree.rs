//! An app's own code: every source file below a directory, in a few numbers.
//!
//! Bounded in the entries that are looked at. Packages are not looked into (their lock files say what they are), nor
//! directories in which apps mostly write.

use super::fact::Fact;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Entries of directories that are looked at. So many take about 0.1 s.
pub(super) const MOST: usize = 20_000;
/// The newest files, which are remembered by name.
const NEWEST: usize = 8;

/// What is code, and what code is made of. YAML is not: a proxy's configuration may lie beside the app, and is
/// compared by what it says.
const CODE: &[&str] = &[
    "astro",
    "cjs",
    "cts",
    "ejs",
    "env",
    "ex",
    "exs",
    "gql",
    "graphql",
    "handlebars",
    "hbs",
    "html",
    "jar",
    "js",
    "json",
    "jsx",
    "liquid",
    "lua",
    "mjs",
    "mts",
    "mustache",
    "njk",
    "node",
    "php",
    "pl",
    "prisma",
    "proto",
    "pug",
    "py",
    "rb",
    "sh",
    "so",
    "sql",
    "svelte",
    "ts",
    "tsx",
    "vue",
    "wasm",
];
/// Directories that hold no code of the app, or what it writes while it runs.
const NO_CODE: &[&str] =
    &["__pycache__", "cache", "coverage", "log", "logs", "node_modules", "temp", "tmp", "uploads", "venv"];
/// The output of a build, although its name begins with a dot.
const BUILT: &[&str] = &[".output"];

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    /// Of all names and facts.
    digest: u64,
    files: usize,
    /// The newest files, relative, with the time of their last change.
    newest: Vec<(i64, PathBuf)>,
    /// There were more entries than are looked at.
    pub(super) is_cut: bool,
}

impl Tree {
    /// `skip`: files that are looked at elsewhere.
    pub(super) fn of(root: &Path, skip: &dyn Fn(&Path) -> bool) -> Tree {
        let mut tree = Tree { root: root.to_owned(), digest: OFFSET, files: 0, newest: Vec::new(), is_cut: false };
        let mut left = MOST;
        let mut directories = VecDeque::from([root.to_owned()]);
        while let Some(directory) = directories.pop_front() {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            let mut entries: Vec<DirEntry> = entries.take(left + 1).flatten().collect();
            if entries.len() > left {
                tree.is_cut = true;
                entries.truncate(left);
            }
            left -= entries.len();
            if is_runtime_dir(&entries) {
                continue;
            }
            // The same order each time.
            entries.sort_by_key(DirEntry::file_name);
            for entry in entries {
                let path = entry.path();
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_directory && may_have_code(&entry.file_name()) {
                    directories.push_back(path);
                } else if !is_directory && is_code(&path) && !skip(&path) {
                    tree.add(&path);
                }
            }
        }
        tree
    }

    fn add(&mut self, path: &Path) {
        let name = path.strip_prefix(&self.root).unwrap_or(path);
        // A link counts as what it leads to; one that leads to a directory is not code.
        let Some(fact) = Fact::of(path) else { return };
        self.files += 1;
        let numbers = fact.numbers().into_iter().flat_map(u64::to_le_bytes);
        let bytes = name.as_os_str().as_bytes().iter().copied().chain([0]).chain(numbers);
        self.digest = bytes.fold(self.digest, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME));
        let newer = self.newest.last().is_none_or(|(oldest, _)| fact.modified > *oldest);
        if self.newest.len() < NEWEST || newer {
            self.newest.push((fact.modified, name.to_owned()));
            self.newest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            self.newest.truncate(NEWEST);
        }
    }

    /// What is other in `now`, if anything: files by name where they are known, relative to its root.
    pub(super) fn changes(&self, now: &Tree) -> Option<Changed> {
        if (&self.root, self.digest, self.files) == (&now.root, now.digest, now.files) {
            return None;
        }
        if self.root != now.root {
            return Some(Changed { named: Vec::new(), before: self.files, after: now.files });
        }
        let named = now.newest.iter().filter(|file| !self.newest.contains(file)).map(|(_, name)| name.clone());
        // What was there all the time may have come up because newer files went.
        let since = self.newest.first().map_or(i64::MIN, |(newest, _)| *newest);
        let named = named.filter(|name| now.newest.iter().any(|(at, known)| known == name && *at >= since));
        Some(Changed { named: named.collect(), before: self.files, after: now.files })
    }
}

/// What is other in a tree.
pub(super) struct Changed {
    /// Files that are new or changed, the newest first; others may have changed, too.
    pub(super) named: Vec<PathBuf>,
    /// How many files there were and are.
    pub(super) before: usize,
    pub(super) after: usize,
}

/// FNV-1a: the same in every build of this program, as one is compared with what another has written down.
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

/// A proxy's own directory, which may lie below an app and changes all the time.
fn is_runtime_dir(entries: &[DirEntry]) -> bool {
    ["lock", "control.sock"].iter().all(|name| entries.iter().any(|entry| entry.file_name() == *name))
}

fn may_have_code(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    (!name.starts_with('.') || BUILT.contains(&&*name)) && !NO_CODE.contains(&&*name)
}

fn is_code(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    name == ".env" || name.starts_with(".env.") || CODE.binary_search(&extension).is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Temp;
    use super::*;
    use std::fs;

    fn of(temp: &Temp) -> Tree {
        Tree::of(&temp.0, &|_| false)
    }

    fn write(temp: &Temp, name: &str, text: &str) {
        let path = temp.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn named(before: &Tree, now: &Tree) -> Vec<String> {
        let changed = before.changes(now).expect("a change");
        changed.named.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn extensions_are_in_order() {
        assert!(CODE.is_sorted(), "they are searched");
    }

    #[test]
    fn code_counts_wherever_it_is_and_other_files_do_not() {
        let temp = Temp::new();
        write(&temp, "server.js", "1");
        write(&temp, "src/lib/routes.mjs", "1");
        let first = of(&temp);
        assert!(first.changes(&of(&temp)).is_none());
        for name in ["README.md", "app.log", "logs/x.json", "node_modules/a/index.js", ".git/x.js", "up.png", "c.yaml"]
        {
            write(&temp, name, "1");
            assert!(first.changes(&of(&temp)).is_none(), "{name}");
        }
        for name in ["src/lib/routes.mjs", "views/a.ejs", ".env", ".env.local", ".output/server/index.mjs"] {
            let before = of(&temp);
            write(&temp, name, "changed");
            assert_eq!(named(&before, &of(&temp)), [name]);
        }
        let before = of(&temp);
        fs::remove_file(temp.0.join("views/a.ejs")).unwrap();
        let now = of(&temp);
        assert_eq!(named(&before, &now), [""; 0]);
        let changed = before.changes(&now).unwrap();
        assert_eq!((changed.before, changed.after), (6, 5));
    }

    #[test]
    fn a_file_of_the_same_size_and_time_is_another_by_its_number() {
        let temp = Temp::new();
        write(&temp, "a.js", "1");
        let old = fs::metadata(temp.0.join("a.js")).unwrap().modified().unwrap();
        let before = of(&temp);
        write(&temp, "b.txt", "2");
        fs::File::options().write(true).open(temp.0.join("b.txt")).unwrap().set_modified(old).unwrap();
        fs::rename(temp.0.join("b.txt"), temp.0.join("a.js")).unwrap();
        assert!(before.changes(&of(&temp)).is_some());
    }

    #[test]
    fn links_lead_to_files_and_not_into_directories() {
        let (temp, other) = (Temp::new(), Temp::new());
        write(&other, "x.js", "1");
        write(&temp, "a.js", "1");
        let before = of(&temp);
        std::os::unix::fs::symlink(&other.0, temp.0.join("linked")).unwrap();
        assert!(before.changes(&of(&temp)).is_none());
        std::os::unix::fs::symlink(other.0.join("x.js"), temp.0.join("x.js")).unwrap();
        let linked = of(&temp);
        assert!(before.changes(&linked).is_some());
        write(&other, "x.js", "12");
        assert_eq!(named(&linked, &of(&temp)), ["x.js"]);
    }

    #[test]
    fn a_large_tree_is_cut_at_the_same_place_each_time() {
        let temp = Temp::new();
        write(&temp, "zz/late.js", "1");
        fs::create_dir(temp.0.join("a")).unwrap();
        for n in 0..MOST {
            fs::write(temp.0.join(format!("a/{n}.js")), "").unwrap();
        }
        let before = of(&temp);
        assert!(before.is_cut && before.files < MOST, "{}", before.files);
        assert_eq!(before, of(&temp));
    }
}
