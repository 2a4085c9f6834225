//! What of an app runs: where its paths lead, and facts of the files there, so that a deploy is seen whatever form
//! it has: another place behind a link in `cwd` or in the command, `git pull`, `npm ci`, a new `.env`.
//!
//! [`take`] looks once, when a generation begins. Its processes are started by what it found: paths without links, and
//! the variables of files as they were. What was changed in place cannot be pinned; [`Release::in_place`] sees it.
//!
//! | deploy | seen by |
//! |---|---|
//! | a link leads elsewhere | the real path of `cwd` and of the command's words |
//! | `git pull`, `git checkout` | the commit ([`git`]) |
//! | `rsync`, a build, an editor | the facts of every source file of the app, up to a bound ([`tree`]) |
//! | `npm ci`, `yarn`, `pnpm install` | lock files, and what these programs leave in `node_modules` |
//! | a new `env_file` | its facts |
//! | a new Node.js | the facts of the program |

#![forbid(unsafe_code)]

mod fact;
mod git;
mod tree;
mod words;

use super::env_file;
use super::spec::{Given, Spec};
use fact::Fact;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tree::Tree;

/// What says which packages an app has, beside its `package.json`.
const PACKAGES: &[&str] = &[
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    // Written by each install, by npm, pnpm and both kinds of yarn.
    "node_modules/.package-lock.json",
    "node_modules/.modules.yaml",
    "node_modules/.yarn-integrity",
    "node_modules/.yarn-state.yml",
    // Of a build that writes nothing else that is code.
    ".next/BUILD_ID",
];
/// Directories above an app in which the root of its workspace is looked for.
const HIGHEST: usize = 8;
/// Bytes of a `package.json` that is looked into.
const LARGEST: u64 = 1024 * 1024;

/// What was found when a generation began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Release {
    /// Seconds since the Unix epoch.
    since: u64,
    cwd: PathBuf,
    /// The command's words that name files, as they are written, and where they lead.
    named: Vec<(String, PathBuf)>,
    /// `None`: there is no such file.
    files: BTreeMap<PathBuf, Option<Fact>>,
    env_files: BTreeMap<PathBuf, Option<Fact>>,
    commit: Option<String>,
    tree: Option<Tree>,
}

/// Looks where everything leads, and at the files there. `spec` is as configured; returned is the same as it is to run.
/// Reads the file system.
///
/// # Errors
/// The directory is not there, or a file of variables has a mistake; for people.
pub(crate) fn take(spec: &Spec, sent: Vec<(String, String)>) -> Result<(Spec, Release), String> {
    let cwd = std::fs::canonicalize(&spec.cwd)
        .map_err(|e| format!("cannot use working directory {}: {e}", spec.cwd.display()))?;
    // Facts first: what is written meanwhile is found different the next time.
    let env_files = spec.env_file.iter().map(|path| (path.clone(), Fact::of(path))).collect();
    let mut read = Vec::new();
    for path in &spec.env_file {
        read.extend(env_file::read(path)?);
    }
    let given = Given { sent, read };
    let words = words::pin(&spec.command, &cwd, spec.preload, &search_path(spec, &given));
    let roots = roots(&cwd, &words.named);
    let mut files: BTreeMap<PathBuf, Option<Fact>> = BTreeMap::new();
    for root in roots.all() {
        files.extend(PACKAGES.iter().map(|name| root.join(name)).map(|path| (path.clone(), Fact::of(&path))));
    }
    let real = words.named.iter().map(|named| named.real.clone()).filter(|path| path.is_file());
    files.extend(real.map(|path| (path.clone(), Fact::of(&path))));
    let counted = |path: &Path| files.contains_key(path) || spec.env_file.iter().any(|file| file == path);
    let tree = roots.tree(&counted);
    let release = Release {
        since: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        cwd: cwd.clone(),
        named: words.named.into_iter().map(|named| (named.word, named.real)).collect(),
        env_files,
        commit: git::commit(&roots.package),
        tree,
        files,
    };
    Ok((Spec { cwd, command: words.pinned, given, ..spec.clone() }, release))
}

impl Release {
    /// When it was taken, for people.
    pub(crate) fn since(&self) -> String {
        let at = UNIX_EPOCH + std::time::Duration::from_secs(self.since);
        humantime::format_rfc3339_seconds(at).to_string()
    }

    /// What of it could not be looked at.
    pub(crate) fn bound(&self) -> Option<String> {
        let cut = self.tree.as_ref().filter(|tree| tree.is_cut)?;
        Some(format!("{} has more than {} entries, the rest is not compared", cut.root.display(), tree::MOST))
    }

    /// What is other in `now`, for people: nothing, when the same would run.
    pub(crate) fn changes(&self, now: &Release) -> Vec<String> {
        let mut changes = Vec::new();
        if self.cwd != now.cwd {
            changes.push(format!("cwd now leads to {}", now.cwd.display()));
        } else {
            changes.extend(self.moved(now));
        }
        if changes.is_empty() {
            changes.extend(self.in_place(now));
        }
        for (path, fact) in &now.env_files {
            if self.env_files.get(path).is_some_and(|before| before != fact) {
                changes.push(told(&self.shown(path), self.env_files.get(path).copied().flatten(), *fact));
            }
        }
        changes
    }

    /// The words that lead elsewhere.
    fn moved(&self, now: &Release) -> Vec<String> {
        let before = |word: &str| self.named.iter().find(|(known, _)| known == word).map(|(_, real)| real);
        let moved = now.named.iter().filter(|(word, real)| before(word).is_some_and(|before| before != real));
        moved.map(|(word, real)| format!("{word} now leads to {}", real.display())).collect()
    }

    /// What was changed where it is: the commit, files of the packages, the command's files, and source files.
    pub(crate) fn in_place(&self, now: &Release) -> Vec<String> {
        let mut changes = Vec::new();
        if self.commit != now.commit {
            let name = |commit: &Option<String>| commit.clone().unwrap_or_else(|| "none".to_owned());
            changes.push(format!("commit {} instead of {}", name(&now.commit), name(&self.commit)));
        }
        for (path, fact) in &now.files {
            if let Some(before) = self.files.get(path).filter(|before| *before != fact) {
                changes.push(told(&self.shown(path), *before, *fact));
            }
        }
        if let (Some(before), Some(tree)) = (&self.tree, &now.tree)
            && let Some(changed) = before.changes(tree)
        {
            let names = changed.named.iter().map(|name| self.shown(&tree.root.join(name)));
            changes.extend(names.take(3).map(|name| format!("{name} changed")));
            if changed.named.is_empty() {
                let root = tree.root.display();
                changes.push(match (changed.before, changed.after) {
                    (before, after) if before == after => format!("source files in {root} changed"),
                    (before, after) => format!("{root} has {after} source files instead of {before}"),
                });
            } else if changed.named.len() > 3 {
                changes.push("and other files".to_owned());
            }
        }
        changes
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.cwd).unwrap_or(path).display().to_string()
    }
}

fn told(name: &str, before: Option<Fact>, now: Option<Fact>) -> String {
    match (before, now) {
        (None, _) => format!("{name} is new"),
        (_, None) => format!("{name} is gone"),
        _ => format!("{name} changed"),
    }
}

/// Where an app's packages and its code are.
struct Roots {
    /// The directory of its script, or its working directory.
    place: PathBuf,
    package: PathBuf,
    workspace: Option<PathBuf>,
}

impl Roots {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.package].into_iter().chain(&self.workspace)
    }

    /// The widest that can be looked at as a whole: a `package.json` far above may be there by accident. `None` where
    /// nothing tells what belongs to the app.
    fn tree(&self, skip: &dyn Fn(&Path) -> bool) -> Option<Tree> {
        let mut found = None;
        for root in self.workspace.iter().chain([&self.package, &self.place]).filter(|root| root.parent().is_some()) {
            let tree = Tree::of(root, skip);
            let whole = !tree.is_cut;
            found = Some(tree);
            if whole {
                break;
            }
        }
        found
    }
}

fn roots(cwd: &Path, named: &[words::Named]) -> Roots {
    // A program of a package, as `next`, does not say where the app is.
    let own = |real: &&PathBuf| !real.components().any(|part| part.as_os_str() == "node_modules");
    let script = named.iter().skip(1).map(|named| &named.real).find(own);
    let place = script.and_then(|real| if real.is_dir() { Some(real.as_path()) } else { real.parent() });
    let place = place.unwrap_or(cwd);
    let found = place.ancestors().take(HIGHEST).find(|dir| dir.join("package.json").is_file());
    let package = found.unwrap_or(place).to_owned();
    let above = package.ancestors().take(HIGHEST).filter(|dir| *dir != package);
    let workspace = above.into_iter().find(|dir| has_workspaces(dir)).map(Path::to_owned);
    Roots { place: place.to_owned(), package, workspace }
}

fn has_workspaces(dir: &Path) -> bool {
    use std::io::Read;
    if dir.join("pnpm-workspace.yaml").is_file() {
        return true;
    }
    let path = dir.join("package.json");
    if !path.is_file() {
        return false;
    }
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
    let package = read.ok().and_then(|_| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    package.is_some_and(|package| package.get("workspaces").is_some())
}

/// The directories in which the worker's program will be looked for.
fn search_path(spec: &Spec, given: &Given) -> Vec<PathBuf> {
    let mut all = given.sent.iter().chain(&given.read).chain(&spec.env);
    let own = all.rfind(|(name, _)| name == "PATH").map(|(_, path)| path.into());
    let path: std::ffi::OsString = own.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    std::env::split_paths(&path).collect()
}

#[cfg(test)]
mod tests;
