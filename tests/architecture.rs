//! Holds the house of `docs/architecture.md`: a room imports from lower floors only, never sideways, and no
//! circle joins rooms. A room is a module right below the crate's root.
//!
//! It reads the paths that begin with `crate`, `super` or `self` in `src/**/*.rs`, nested `use` trees and test
//! modules included. A new room fails it until it has a floor in [`FLOORS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

const FLOORS: &[(&str, u8)] = &[
    ("worker", 1),
    ("fleet", 2),
    ("pool", 2),
    ("process", 2),
    ("config", 3),
    ("gateway", 3),
    ("supervisor", 3),
    ("handoff", 3),
    ("admin", 3),
    ("server", 4),
    ("lib", 5),
    ("main", 5),
];

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// One path in the source that leads somewhere in this crate.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    /// `src/...` with its line.
    place: String,
    from: String,
    /// From the crate's root.
    path: String,
    /// The room it leads to; `lib` for what stands in the crate's root.
    to: String,
}

// ---- reading the source

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// An identifier or keyword.
    Word(String),
    /// `::`
    Colons,
    Sign(char),
}

/// The tokens of a source with their lines; without comments, texts, characters and lifetimes.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let at = |i: usize| text.get(i).copied().unwrap_or('\0');
    let mut found = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < text.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => i = find(&text, i, |i| at(i) == '\n'),
            '/' if at(i + 1) == '*' => i = block_comment(&text, i),
            '"' => i = quoted(&text, i),
            'r' | 'b' | 'c' if string_prefix(&text, i).is_some() => {
                let (quote, hashes) = string_prefix(&text, i).unwrap_or((i, None));
                i = match hashes {
                    Some(n) => find(&text, quote + 1, |i| at(i) == '"' && (1..=n).all(|k| at(i + k) == '#')) + n + 1,
                    None => quoted(&text, quote),
                };
            }
            '\'' if at(i + 1) == '\\' => i = find(&text, i + 3, |i| at(i) == '\'') + 1,
            '\'' if at(i + 2) == '\'' => i += 3,
            '\'' => i = find(&text, i + 1, |i| !word_char(at(i))),
            c if word_char(c) => {
                i = find(&text, i, |i| !word_char(at(i)));
                if at(i) == '#' && i == start + 1 && c == 'r' && word_char(at(i + 1)) {
                    i = find(&text, i + 1, |i| !word_char(at(i)));
                }
                found.push((line, Token::Word(text[start..i].iter().collect())));
            }
            ':' if at(i + 1) == ':' => {
                found.push((line, Token::Colons));
                i += 2;
            }
            c => {
                if !c.is_whitespace() {
                    found.push((line, Token::Sign(c)));
                }
                i += 1;
            }
        }
        i = i.min(text.len());
        line += text[start..i].iter().filter(|c| **c == '\n').count();
    }
    found
}

fn word_char(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn find(text: &[char], from: usize, is: impl Fn(usize) -> bool) -> usize {
    (from..text.len()).find(|i| is(*i)).unwrap_or(text.len())
}

/// The end of the block comment (they nest) that begins here.
fn block_comment(text: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) if depth == 1 => return i + 2,
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    i
}

/// The end of the text with escapes whose opening quote stands here.
fn quoted(text: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Where the quote of a prefixed text (`b"`, `r#"`, `cr"` ...) stands, and its number of hashes if it is raw.
fn string_prefix(text: &[char], from: usize) -> Option<(usize, Option<usize>)> {
    if from > 0 && word_char(text[from - 1]) {
        return None;
    }
    let letters: String = text[from..].iter().take(2).take_while(|c| c.is_ascii_lowercase()).collect();
    if !["r", "b", "c", "br", "cr"].contains(&letters.as_str()) {
        return None;
    }
    let hashes = text[from + letters.len()..].iter().take_while(|c| **c == '#').count();
    let quote = from + letters.len() + hashes;
    let raw = letters.ends_with('r');
    (text.get(quote) == Some(&'"') && (raw || hashes == 0)).then_some((quote, raw.then_some(hashes)))
}

// ---- from source to imports

/// The paths of a file into this crate. `file` is its path below `src/`.
fn imports(file: &str, source: &str) -> Result<Vec<Import>, String> {
    let home = module_of(file);
    let from = home.first().cloned().unwrap_or_else(|| file.trim_end_matches(".rs").to_owned());
    let tokens = tokens(source);
    let mut found = Vec::new();
    // The inline modules that are open, each with the depth of braces outside it.
    let mut inner: Vec<(String, usize)> = Vec::new();
    let (mut i, mut depth) = (0, 0_usize);
    while i < tokens.len() {
        match &tokens[i..] {
            [(_, Token::Word(m)), (_, Token::Word(name)), (_, Token::Sign('{')), ..] if m == "mod" => {
                inner.push((name.clone(), depth));
                depth += 1;
                i += 3;
            }
            [(_, Token::Sign('{')), ..] => (depth, i) = (depth + 1, i + 1),
            [(_, Token::Sign('}')), ..] => {
                depth = depth.saturating_sub(1);
                inner.pop_if(|(_, outside)| *outside == depth);
                i += 1;
            }
            // The rest of a longer path, such as `some::self`.
            [(_, Token::Colons), (_, Token::Word(_)), ..] => i += 2,
            [(line, Token::Word(word)), next, ..] if leads_inside(word, &next.1) => {
                let mut leaves = Vec::new();
                let begin = i;
                i = use_tree(&tokens, i, &[], &mut leaves).max(begin + 1);
                let module: Vec<String> = home.iter().chain(inner.iter().map(|(name, _)| name)).cloned().collect();
                for leaf in leaves {
                    let place = format!("src/{file}:{line}");
                    let path =
                        resolve(&module, &leaf).ok_or(format!("{place}: `{}` leaves the crate", leaf.join("::")))?;
                    let to = path.first().filter(|name| is_room(name)).cloned().unwrap_or_else(|| "lib".to_owned());
                    found.push(Import { place, from: from.clone(), path: path.join("::"), to });
                }
            }
            _ => i += 1,
        }
    }
    Ok(found)
}

fn is_room(name: &str) -> bool {
    floor(name).is_some_and(|floor| floor < 5)
}

fn leads_inside(word: &str, next: &Token) -> bool {
    let renamed = *next == Token::Word("as".to_owned());
    ["crate", "super", "self"].contains(&word) && (*next == Token::Colons || (word == "crate" && renamed))
}

/// The module that a file holds, from the crate's root: empty for `lib.rs` and `main.rs`.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    match (parts.len(), parts.last().map(String::as_str)) {
        (1, Some("lib" | "main")) => parts.clear(),
        (2.., Some("mod")) => drop(parts.pop()),
        _ => {}
    }
    parts
}

/// Reads one path or use tree from `i`; its leaves, with what stands before them, go to `leaves`.
fn use_tree(tokens: &[(usize, Token)], mut i: usize, before: &[String], leaves: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    let token = |i: usize| tokens.get(i).map(|(_, token)| token);
    loop {
        match token(i) {
            Some(Token::Word(word)) => path.push(word.trim_start_matches("r#").to_owned()),
            Some(Token::Sign('*')) => path.push("*".to_owned()),
            Some(Token::Sign('{')) => {
                i += 1;
                while !matches!(token(i), None | Some(Token::Sign('}'))) {
                    let next = use_tree(tokens, i, &path, leaves);
                    let comma = token(next) == Some(&Token::Sign(','));
                    i = if comma || next == i { next + 1 } else { next };
                }
                return i + 1;
            }
            _ => break,
        }
        i += 1;
        if token(i) != Some(&Token::Colons) {
            break;
        }
        i += 1;
    }
    if token(i) == Some(&Token::Word("as".to_owned())) {
        i += 2;
    }
    leaves.push(path);
    i
}

/// The path from the crate's root; `None` if it climbs above it.
fn resolve(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut at: Vec<String> = module.to_vec();
    for (i, part) in path.iter().enumerate() {
        match part.as_str() {
            "crate" if i == 0 => at.clear(),
            "super" => drop(at.pop()?),
            "self" => {}
            _ => at.push(part.clone()),
        }
    }
    Some(at)
}

// ---- the rules

/// What breaks the rules, one sentence each.
fn faults(imports: &[Import]) -> Vec<String> {
    let mut faults = Vec::new();
    for Import { place, from, path, to } in imports.iter().filter(|import| import.from != import.to) {
        let (Some(own), Some(other)) = (floor(from), floor(to)) else { continue };
        if other > own {
            faults.push(format!("{place}: {from} (floor {own}) imports `{path}` from {to}, up on floor {other}"));
        } else if other == own && own < 5 {
            faults.push(format!("{place}: {from} imports `{path}` from {to}, sideways on floor {own}"));
        }
    }
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Import { from, to, .. } in imports.iter().filter(|import| import.from != import.to) {
        graph.entry(from).or_default().insert(to);
    }
    let mut done = BTreeSet::new();
    for room in graph.keys() {
        if let Some(circle) = circle(&graph, room, &mut Vec::new(), &mut done) {
            faults.push(format!("a circle: {}", circle.join(" -> ")));
        }
    }
    faults
}

/// The first circle found from a room; `done` are the rooms from which there is none.
fn circle<'a>(
    graph: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    room: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    if let Some(first) = way.iter().position(|seen| *seen == room) {
        return Some(way[first..].iter().copied().chain([room]).collect());
    }
    if done.contains(room) {
        return None;
    }
    way.push(room);
    let found = graph.get(room).into_iter().flatten().find_map(|next| circle(graph, next, way, done));
    way.pop();
    done.insert(room);
    found
}

fn sources(dir: &Path, below: &str, found: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            sources(&entry.path(), &format!("{name}/"), found)?;
        } else if name.ends_with(".rs") {
            found.push((name, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

#[test]
fn the_house_stands() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files).unwrap();
    assert!(files.len() >= 10, "only {} files read", files.len());

    let mut all = Vec::new();
    for (file, source) in &files {
        let room = file.split(['/', '.']).next().unwrap();
        assert!(floor(room).is_some(), "src/{file}: the room {room} has no floor: give it one in FLOORS");
        all.extend(imports(file, source).unwrap());
    }
    let across = all.iter().filter(|import| import.from != import.to).count();
    assert!(across >= 5, "only {across} imports between rooms read: does this test still see them?");
    let faults = faults(&all);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[cfg(test)]
mod planted {
    use super::*;

    /// The rooms and paths that a source leads to, other than its own room.
    fn led_to(file: &str, source: &str) -> Vec<String> {
        let all = imports(file, source).unwrap();
        all.into_iter().filter(|i| i.from != i.to).map(|i| format!("{} {}", i.to, i.path)).collect()
    }

    fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
        let all: Vec<Import> = files.iter().flat_map(|(file, source)| imports(file, source).unwrap()).collect();
        faults(&all)
    }

    #[test]
    fn an_upward_import_fails() {
        let up = [("fleet/backoff.rs", "use std::fmt;\nuse crate::gateway::proxy::Proxy;\n")];
        let told =
            "src/fleet/backoff.rs:2: fleet (floor 2) imports `gateway::proxy::Proxy` from gateway, up on floor 3";
        assert_eq!(faults_of(&up), [told]);
        // From the floor below the composition root, from a root item, and out of a test module.
        assert_eq!(faults_of(&[("gateway/mod.rs", "fn f() { crate::server::run() }")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use crate::VERSION;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use crate::*;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "#[cfg(test)] mod tests { use crate::config::Config; }")]).len(), 1);
    }

    #[test]
    fn a_sideways_import_fails() {
        let sideways = [("gateway/tunnel/mod.rs", "use crate::{worker::Slot, supervisor::{self, Probe}};")];
        let told = |path| {
            format!("src/gateway/tunnel/mod.rs:1: gateway imports `{path}` from supervisor, sideways on floor 3")
        };
        assert_eq!(faults_of(&sideways), [told("supervisor"), told("supervisor::Probe")]);
        assert_eq!(faults_of(&[("pool/lease.rs", "use super::super::fleet::policy::Policy;")]).len(), 1);
        assert_eq!(faults_of(&[("pool/mod.rs", "use super::process as p;")]).len(), 1);
    }

    #[test]
    fn a_circle_fails() {
        let files = [("pool/mod.rs", "use crate::fleet::A;"), ("fleet/mod.rs", "use crate::pool::B;")];
        let told = faults_of(&files);
        assert_eq!(told.len(), 3, "{told:?}");
        assert_eq!(told[2], "a circle: fleet -> pool -> fleet");
    }

    #[test]
    fn downward_and_own_imports_pass() {
        let files = [
            ("config/mod.rs", "use crate::{fleet::policy::Policy, pool::affinity::{Affinity, Balance}, worker::Slot};"),
            ("config/file.rs", "use super::{Config, super::pool::Pool};\npub(in crate::config) struct X;"),
            ("server.rs", "use crate::{config, gateway, supervisor};\nmod tests { use super::*; }"),
            ("main.rs", "fn main() { pingora_unix_proxy::server::main() }"),
            ("lib.rs", "pub use self::server::run;"),
        ];
        assert_eq!(faults_of(&files), [""; 0]);
    }

    #[test]
    fn every_form_of_path_is_read() {
        let forms = "use crate::{a, fleet::{self, policy::{Policy as P, *}}, r#pool::x,};";
        let read = ["lib a", "fleet fleet", "fleet fleet::policy::Policy", "fleet fleet::policy::*", "pool pool::x"];
        assert_eq!(led_to("worker.rs", forms), read);
        assert_eq!(led_to("worker.rs", "fn f<'a>(x: &'a crate::pool::Pool<'a>) -> u8 { b'{' }"), ["pool pool::Pool"]);
        assert_eq!(led_to("worker.rs", "crate::fleet::f::<u8>(crate::pool::P { x: '\\'' })").len(), 2);
        assert_eq!(
            led_to("worker.rs", "mod a { mod b { use super::super::super::pool; } use super::super::fleet; }").len(),
            2
        );
        assert_eq!(led_to("worker.rs", "macro_rules! m { () => { $crate::pool::x() } }"), ["pool pool::x"]);
        assert_eq!(led_to("worker.rs", "use crate as c;"), ["lib "]);
    }

    #[test]
    fn comments_and_texts_are_not_read() {
        let quiet = r####"
            // crate::pool
            /* crate::pool /* nested */ crate::pool */
            //! [`crate::pool`]
            const A: &str = "crate::pool \" crate::pool";
            const B: &str = r#"crate::pool " crate::pool"#;
            const C: &[u8] = b"crate::pool\\";
            const D: char = '"';
            pub(crate) fn f() { some::crate_::pool() }
        "####;
        assert_eq!(led_to("worker.rs", quiet), [""; 0]);
        // And reading goes on behind them.
        assert_eq!(led_to("worker.rs", &format!("{quiet} use crate::pool::Pool;")), ["pool pool::Pool"]);
    }

    #[test]
    fn a_path_out_of_the_crate_is_told() {
        assert!(imports("pool/mod.rs", "use super::super::x;").is_err());
    }
}
