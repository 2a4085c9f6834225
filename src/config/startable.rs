//! What a program would fail at the moment it is started, as far as its words and files tell: a script that is not there,
//! a package without the script that is asked for, an interpreter in `#!` that is not installed.
//!
//! Where a word may mean more than we know, nothing is said: what starts must never be refused.

use super::error::{nearest, shown};
use super::fields::{Decoder, Field, tidy};
use super::lookup::{file_hint, find};
use super::machine::Seen;
use std::path::{Path, PathBuf};

/// Options of Node.js that take the next word as their value.
const NODE_VALUES: &[&str] = &[
    "-C",
    "-r",
    "--conditions",
    "--diagnostic-dir",
    "--disable-warning",
    "--dns-result-order",
    "--env-file",
    "--env-file-if-exists",
    "--experimental-config-file",
    "--experimental-loader",
    "--icu-data-dir",
    "--import",
    "--input-type",
    "--inspect-port",
    "--loader",
    "--max-http-header-size",
    "--openssl-config",
    "--redirect-warnings",
    "--require",
    "--title",
    "--unhandled-rejections",
    "--watch-path",
];
/// Those that stand alone, by how they begin.
const NODE_FLAGS: &[&str] = &[
    "--abort-on-",
    "--enable-",
    "--expose-",
    "--harmony",
    "--inspect",
    "--no-",
    "--pending-deprecation",
    "--permission",
    "--preserve-symlinks",
    "--throw-deprecation",
    "--trace-deprecation",
    "--trace-uncaught",
    "--trace-warnings",
    "--use-",
    "--watch",
];
/// What `node FILE` tries, after the name itself (CommonJS, "require(X) from module at path Y").
const NODE_ENDINGS: &[&str] = &[".js", ".json", ".node", "/package.json", "/index.js", "/index.json", "/index.node"];
/// Files that an interpreter is given as its first word.
const SOURCES: &[&str] = &["cjs", "cts", "js", "jsx", "mjs", "mts", "php", "pl", "py", "rb", "sh", "ts", "tsx"];
const INTERPRETERS: &[&str] = &[
    "babel-node",
    "bash",
    "bun",
    "dash",
    "nodemon",
    "perl",
    "php",
    "python",
    "ruby",
    "sh",
    "ts-node",
    "ts-node-esm",
    "tsx",
    "vite-node",
    "zsh",
];
/// Package managers, and whether `run` finds programs of packages, too.
const PACKAGE_MANAGERS: &[(&str, bool)] = &[("npm", false), ("pnpm", true), ("yarn", true)];
/// Options by which a package manager works elsewhere.
const ELSEWHERE: &[&str] = &[
    "-C",
    "-F",
    "-g",
    "-r",
    "-w",
    "-ws",
    "--cwd",
    "--dir",
    "--filter",
    "--global",
    "--if-present",
    "--prefix",
    "--recursive",
    "--workspace",
    "--workspace-root",
    "--workspaces",
];
/// Longest `#!` line that the kernel reads (BINPRM_BUF_SIZE).
const LONGEST_SHEBANG: usize = 256;
/// A package.json is smaller, in bytes.
const LARGEST_PACKAGE: usize = 4 * 1024 * 1024;

/// Checks the words of `command`, whose program is there.
pub(super) fn check(d: &mut Decoder<'_>, command: &Field<'_>, words: &[String], cwd: &Path, env: &[(String, String)]) {
    let [program, rest @ ..] = words else { return };
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some((manager, finds_programs)) = PACKAGE_MANAGERS.iter().find(|(manager, _)| *manager == name) {
        return check_package(d, command, manager, rest, cwd, *finds_programs);
    }
    check_shebang(d, command, program, cwd, env);
    let Some((at, endings)) = script_of(name, rest) else { return };
    let Some(file) = rest.get(at).filter(|file| !file.contains(['{', '$', '*'])) else { return };
    let whole = cwd.join(file);
    let ending = |ending: &&str| PathBuf::from(format!("{}{ending}", whole.display()));
    let is_there = |path: &Path| !matches!(d.machine.look(path, Seen::File { executable: false }), Seen::Missing);
    let is_directory = d.machine.look(&whole, Seen::File { executable: false }) == Seen::Directory;
    if (is_there(&whole) && !is_directory) || endings.iter().map(ending).any(|path| is_there(&path)) {
        return;
    }
    let place = place_of(command, at + 1);
    let whole = tidy(&whole);
    let message = format!("{}: there is no file {} for {name}", command.path, shown(file));
    d.found.error(place, message, file_hint(&whole));
}

/// The place of a word: its own in a list, else that of the text.
fn place_of(command: &Field<'_>, word: usize) -> Option<super::error::Place> {
    command.items().and_then(|items| items.get(word)?.at()).or_else(|| command.at())
}

/// The file that a command gives its program to run, if that is certain.
pub(super) fn script(words: &[String]) -> Option<&str> {
    let [program, rest @ ..] = words else { return None };
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (at, _) = script_of(name, rest)?;
    rest.get(at).map(String::as_str)
}

/// Which of the words after the program is the file that it runs, and what else it tries when there is none.
fn script_of(program: &str, words: &[String]) -> Option<(usize, &'static [&'static str])> {
    let bare = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    if matches!(bare, "node" | "nodejs") {
        return node_script(words).map(|at| (at, NODE_ENDINGS));
    }
    let first = words.first()?;
    let is_source = Path::new(first).extension().and_then(|e| e.to_str()).is_some_and(|e| SOURCES.contains(&e));
    (INTERPRETERS.contains(&bare) && is_source && !first.starts_with('-')).then_some((0, &[]))
}

fn node_script(words: &[String]) -> Option<usize> {
    let mut at = 0;
    loop {
        let word = words.get(at)?.as_str();
        match word {
            "inspect" | "debug" => return None,
            "--" => return words.get(at + 1).map(|_| at + 1),
            _ if !word.starts_with('-') => return Some(at),
            _ if NODE_VALUES.contains(&word) => at += 2,
            _ if word.starts_with("--") && word.contains('=') => at += 1,
            _ if NODE_FLAGS.iter().any(|flag| word.starts_with(flag)) => at += 1,
            // Maybe with a value, maybe instead of a file.
            _ => return None,
        }
    }
}

/// `npm start`, `npm run serve` and their like.
fn check_package(
    d: &mut Decoder<'_>,
    command: &Field<'_>,
    manager: &str,
    words: &[String],
    cwd: &Path,
    finds_programs: bool,
) {
    let is_elsewhere = |word: &String| ELSEWHERE.contains(&word.split('=').next().unwrap_or_default());
    let own = words.iter().position(|word| word == "--").map_or(words, |end| &words[..end]);
    if own.iter().any(is_elsewhere) {
        return;
    }
    let mut plain = own.iter().enumerate().filter(|(_, word)| !word.starts_with('-'));
    let Some((at, verb)) = plain.next() else { return };
    let (at, script) = match verb.as_str() {
        "start" => (at, "start"),
        "run" | "run-script" => match plain.next() {
            Some((at, script)) => (at, script.as_str()),
            None => return,
        },
        _ => return,
    };
    let place = place_of(command, at + 1);
    let package = |dir: &Path| dir.join("package.json");
    let is_there = |path: &PathBuf| matches!(d.machine.look(path, Seen::File { executable: false }), Seen::File { .. });
    let Some(package) = cwd.ancestors().map(package).find(is_there) else {
        let message = format!("{}: {manager} finds no package.json", command.path);
        let hint = format!("looked in {} and above; write cwd: with the directory of the app", cwd.display());
        return d.found.error(place, message, hint);
    };
    let dir = package.parent().unwrap_or(Path::new("/"));
    let Some(text) = d.machine.read(&package, LARGEST_PACKAGE) else { return };
    let parsed: serde_json::Value = match serde_json::from_slice(&text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = format!("{}: {} is not JSON: {error}", command.path, package.display());
            return d.found.error(place, message, "");
        }
    };
    let has_program = finds_programs && there(d, &dir.join("node_modules/.bin").join(script));
    let is_default = script == "start" && there(d, &dir.join("server.js"));
    let scripts = parsed.get("scripts").and_then(serde_json::Value::as_object);
    if has_program || is_default || scripts.is_some_and(|scripts| scripts.contains_key(script)) {
        return;
    }
    let message = format!("{}: {} has no script {}", command.path, package.display(), shown(script));
    let names = scripts.into_iter().flat_map(|scripts| scripts.keys().map(String::as_str));
    let hint = nearest(script, names).map(|near| format!("did you mean {near}?"));
    d.found.error(place, message, hint.unwrap_or_default());
}

fn there(d: &Decoder<'_>, path: &Path) -> bool {
    matches!(d.machine.look(path, Seen::File { executable: false }), Seen::File { .. })
}

/// The kernel answers "no such file" for a program whose interpreter is missing, as if the program were.
pub(super) fn check_shebang(
    d: &mut Decoder<'_>,
    field: &Field<'_>,
    program: &str,
    cwd: &Path,
    env: &[(String, String)],
) {
    let found = if program.contains('/') { Some(tidy(&cwd.join(program))) } else { find(d, program, env) };
    let Some(file) = found else { return };
    let Some(head) = d.machine.read(&file, LONGEST_SHEBANG) else { return };
    let Some(line) = head.strip_prefix(b"#!") else { return };
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let Ok(line) = std::str::from_utf8(&line[..end]) else { return };
    let mut words = line.trim_matches([' ', '\t']).splitn(2, [' ', '\t']);
    let (interpreter, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().trim());
    let wanted = match Path::new(interpreter).file_name().and_then(|name| name.to_str()) {
        Some("env") if !argument.is_empty() && !argument.starts_with('-') && !argument.contains([' ', '\t', '=']) => {
            argument
        }
        _ => interpreter,
    };
    let is_there = match wanted.contains('/') {
        true => d.machine.look(&cwd.join(wanted), Seen::File { executable: true }) == Seen::File { executable: true },
        false => find(d, wanted.trim_end_matches('\r'), env).is_some() && !wanted.ends_with('\r'),
    };
    if is_there || wanted.is_empty() {
        return;
    }
    let message = format!("{}: {} is run by {}, which is not there", field.path, shown(program), shown(wanted));
    let hint = match line.ends_with('\r') {
        true => "its lines end as on Windows: save it with Unix line ends",
        false => "install it, or correct the first line of the file",
    };
    d.found.error(field.at(), message, hint);
}
