//! What `docs/architecture.md` names is there, and every file of the larger modules stands in their map.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Modules with a section `### Inside NAME/` that names each of their files.
pub(crate) const MAPPED: &[&str] = &["fleet", "gateway", "handoff", "process", "server", "supervisor", "tls"];

/// The page, and what it may name.
pub(crate) struct Page {
    text: String,
    /// Files of `src/` and `tests/` with their text, by their path from the root.
    files: Vec<(String, String)>,
}

impl Page {
    pub(crate) fn read() -> Result<Page, String> {
        let path = Path::new(ROOT).join("docs/architecture.md");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut files = Vec::new();
        for below in ["src", "tests"] {
            collect(&Path::new(ROOT).join(below), below, &mut files).map_err(|e| format!("{below}: {e}"))?;
        }
        Ok(Page { text, files })
    }

    /// Names of files, directories and items that lead nowhere, and how many names were looked at.
    pub(crate) fn dead_names(&self) -> (usize, Vec<String>) {
        let names: BTreeSet<_> = names(&self.text).into_iter().collect();
        let leads = |name: &str| if name.contains("::") { self.has_item(name) } else { self.has_path(name) };
        let dead = names.iter().filter(|(_, name)| !leads(name));
        let dead = dead.map(|(line, name)| format!("docs/architecture.md:{line}: {name} is not there")).collect();
        (names.len(), dead)
    }

    /// Files of the mapped modules that their sections do not name. Those of tests need no line.
    pub(crate) fn unnamed(&self) -> Vec<String> {
        let mut found = Vec::new();
        for module in MAPPED {
            let title = format!("### Inside {module}/");
            let section =
                self.text.split_once(&title).map_or("", |(_, rest)| rest.split("\n##").next().unwrap_or(rest));
            let named: Vec<_> = names(section).into_iter().map(|(_, name)| base(&name).to_owned()).collect();
            let below = format!("src/{module}/");
            let files =
                self.files.iter().map(|(path, _)| path).filter(|path| path.starts_with(&below) && needs_line(path));
            let bases: Vec<_> = files.map(|path| base(path)).collect();
            for file in bases.iter().collect::<BTreeSet<_>>() {
                let count = |all: &mut dyn Iterator<Item = &str>| all.filter(|name| name == file).count();
                let wanted = count(&mut bases.iter().copied());
                let lines = count(&mut named.iter().map(String::as_str));
                if lines < wanted {
                    found.push(format!(
                        "docs/architecture.md, \"{title}\" names {file} {lines} times; there are {wanted}"
                    ));
                }
            }
        }
        found
    }

    fn has_path(&self, name: &str) -> bool {
        match name.strip_suffix('/') {
            Some(_) if Path::new(ROOT).join(name).is_dir() => true,
            Some(directory) => {
                self.files.iter().any(|(path, _)| format!("/{path}").contains(&format!("/{directory}/")))
            }
            None => self.files.iter().any(|(path, _)| ends_in(path, name)),
        }
    }

    /// `a::b::c`: as far as there are modules, and the rest stands in the last one. `Type::item`: in one file.
    fn has_item(&self, name: &str) -> bool {
        let parts: Vec<_> = name.split("::").collect();
        if parts[0].starts_with(char::is_uppercase) {
            let mut sources = self.files.iter().filter(|(path, _)| path.starts_with("src/"));
            return sources.any(|(_, text)| parts.iter().all(|part| has_word(text, part)));
        }
        let tops = MAPPED.iter().map(|module| format!("src/{module}/"));
        std::iter::once("src/".to_owned()).chain(tops).any(|top| self.has_item_below(&top, &parts))
    }

    fn has_item_below(&self, top: &str, parts: &[&str]) -> bool {
        let is_module = |path: &str| self.module(path).next().is_some();
        let path = |depth: usize| format!("{top}{}", parts[..depth].join("/"));
        let Some(depth) = (1..=parts.len()).take_while(|depth| is_module(&path(*depth))).last() else { return false };
        let (module, rest) = (path(depth), &parts[depth..]);
        let Some((item, inner)) = rest.split_first() else { return true };
        let below = format!("{module}/");
        let whole = |part: &str| {
            let in_it = self.files.iter().filter(|(path, _)| path.starts_with(&below));
            in_it.map(|(_, text)| text).chain(self.module(&module)).any(|text| has_word(text, part))
        };
        self.module(&module).any(|text| has_word(text, item)) && inner.iter().all(|part| whole(part))
    }

    /// The text of a module's own file.
    fn module(&self, path: &str) -> impl Iterator<Item = &String> {
        let own = [format!("{path}.rs"), format!("{path}/mod.rs")];
        self.files.iter().filter(move |(file, _)| own.contains(file)).map(|(_, text)| text)
    }
}

/// What looks like a path or an item in the code of a page, with its line: `file.rs`, `directory/`, `module::item`.
fn names(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (line, row) in (1..).zip(text.lines()) {
        if row.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        for (i, code) in row.split('`').enumerate() {
            if fenced || i % 2 == 1 {
                found.extend(names_of(code).into_iter().map(|name| (line, name)));
            }
        }
    }
    found
}

fn names_of(code: &str) -> Vec<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-:/.".contains(c);
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_part) {
        let len = rest[start..].find(|c| !is_part(c)).unwrap_or(rest.len() - start);
        let (name, after) = rest[start..].split_at(len);
        rest = after;
        // `module::{one, two}`
        if let (true, Some((group, behind))) =
            (name.ends_with("::"), after.strip_prefix('{').and_then(|a| a.split_once('}')))
        {
            found.extend(group.split(',').map(|item| format!("{name}{}", item.trim())));
            rest = behind;
            continue;
        }
        let name = name.trim_end_matches(['.', ':', '-']);
        let is_file = [".rs", ".cjs", ".mjs"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.');
        let is_directory = name.len() > 1 && name.ends_with('/');
        if name.contains("::") || is_file || is_directory {
            found.push(name.to_owned());
        }
    }
    found
}

/// Files of Rust but for tests and what only says which files a module has.
fn needs_line(path: &str) -> bool {
    let is_test = path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "simulation"));
    path.ends_with(".rs") && !path.ends_with("/mod.rs") && !is_test
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether a path ends in these parts.
fn ends_in(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// Whether the word stands in the code, not only in a comment.
fn has_word(text: &str, word: &str) -> bool {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).any(|found| found == word)
}

fn collect(dir: &Path, below: &str, found: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}/{name}");
        if entry.file_type()?.is_dir() {
            if name != "node_modules" {
                collect(&entry.path(), &path, found)?;
            }
        } else if [".rs", ".cjs", ".mjs"].iter().any(|end| name.ends_with(end)) {
            found.push((path, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

#[test]
fn a_name_in_braces_is_several_names() {
    let found = names_of("request::heads::{request_field, response_to_http1}, sides.rs and tests/e2e/");
    let wanted = ["request::heads::request_field", "request::heads::response_to_http1", "sides.rs", "tests/e2e/"];
    assert_eq!(found, wanted);
}

#[test]
fn a_name_that_leads_nowhere_is_found() {
    let page =
        Page { text: String::new(), files: vec![("src/pool/mod.rs".to_owned(), "// gone\nstruct Pool;".to_owned())] };
    assert!(page.has_item("pool::Pool") && page.has_path("pool/mod.rs") && page.has_path("src/pool/"));
    assert!(!page.has_item("pool::gone") && !page.has_item("poll::Pool") && !page.has_path("ool/mod.rs"));
}
