//! What an app runs: script or command, checked as far as this can be done before it is started.

use super::error::{nearest, shown};
use super::fields::{Decoder, Field, Fields, tidy};
use super::lookup::{file_hint, find};
use super::machine::Seen;
use super::startable;
use std::path::{Path, PathBuf};

/// Programs that are Node.js or start it, so that `NODE_OPTIONS` reaches the app.
const NODE: &[&str] = &[
    "babel-node",
    "corepack",
    "nest",
    "next",
    "node",
    "nodejs",
    "nodemon",
    "npm",
    "npx",
    "pnpm",
    "pnpx",
    "ts-node",
    "ts-node-dev",
    "ts-node-esm",
    "tsx",
    "vite-node",
    "yarn",
    "yarnpkg",
];

/// What an app runs.
pub(super) struct Command {
    /// Program and arguments, never empty.
    pub(super) words: Vec<String>,
    pub(super) preload: bool,
}

/// Decodes `script` or `command` and what belongs to them.
pub(super) fn decode(
    d: &mut Decoder<'_>,
    fields: &Fields<'_>,
    cwd: &Path,
    env: &[(String, String)],
) -> Option<Command> {
    let before = d.found.count();
    let words = match (fields.get("script"), fields.get("command")) {
        (Some(script), None) => from_script(d, fields, &script, cwd, env),
        (None, Some(command)) => from_command(d, fields, &command, cwd, env),
        (Some(_), Some(command)) => {
            let message = format!("{} has both script and command", fields.path);
            d.found.error(command.key_at, message, "write script for a file that Node.js runs, else command");
            None
        }
        (None, None) if fields.misspelt("script") || fields.misspelt("command") => None,
        (None, None) => {
            let message = format!("{} says neither script nor command", fields.path);
            d.found.error(fields.at, message, "write script: app.js, or command: [program, argument]");
            None
        }
    };
    let said = d.flag(fields, "preload");
    let words = words?;
    let runtime = other_runtime(&words[0]);
    if let (Some((name, hint)), Some(true), Some(field)) = (runtime, said, fields.get("preload")) {
        d.found.error(field.at(), format!("{}: {name} does not load the script of Node.js", field.path), hint);
    }
    let preload = said.unwrap_or_else(|| runs_node(&words[0]));
    let wrong = d.found.count() > before;
    let told = words.iter().chain(env.iter().map(|(_, value)| value)).any(|word| word.contains("{socket}"));
    let field = fields.get("command").or_else(|| fields.get("script"));
    // A program that is not there says nothing about how it is told.
    if !preload && !told && !wrong {
        let name = shown(&words[0]);
        let message = format!("{}: nothing tells {name} its socket", fields.path);
        let hint = match said {
            _ if runtime.is_some() => runtime.map_or("", |(_, hint)| hint),
            Some(_) => "write \"{socket}\" where the program takes the path of a Unix socket, in command or env",
            None => {
                "write \"{socket}\" where the program takes the path of a Unix socket, in command or env; \
                 for a Node.js program write preload: true"
            }
        };
        d.found.error(field.as_ref().and_then(Field::at), message, hint);
    }
    unknown_placeholders(d, fields, &words, field.as_ref().and_then(Field::at));
    Some(Command { words, preload })
}

/// Runtimes of JavaScript that take no preload script, and how their apps are told their socket.
fn other_runtime(program: &str) -> Option<(&'static str, &'static str)> {
    match Path::new(program).file_name()?.to_str()? {
        "bun" | "bunx" => Some((
            "Bun",
            "write env: {SOCKET: \"{socket}\"} and, in the app, Bun.serve({unix: process.env.SOCKET, ...}) or \
             server.listen(process.env.SOCKET)",
        )),
        "deno" => Some((
            "Deno",
            "write env: {SOCKET: \"{socket}\"} and, in the app, Deno.serve({path: Deno.env.get(\"SOCKET\")}, ...) or \
             server.listen(process.env.SOCKET)",
        )),
        _ => None,
    }
}

/// Whether a program is Node.js or starts it. `node20` and `nodejs18` count.
pub(super) fn runs_node(program: &str) -> bool {
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    NODE.contains(&name) || matches!(bare, "node" | "nodejs")
}

fn from_script(
    d: &mut Decoder<'_>,
    fields: &Fields<'_>,
    script: &Field<'_>,
    cwd: &Path,
    env: &[(String, String)],
) -> Option<Vec<String>> {
    let interpreter = match fields.get("interpreter") {
        Some(field) => d.word(&field).inspect(|program| {
            check_program(d, &field, program, cwd, env);
            startable::check_shebang(d, &field, program, cwd, env);
        }),
        None => {
            let interpreter = "node".to_owned();
            check_program(d, script, &interpreter, cwd, env);
            Some(interpreter)
        }
    };
    let node_args = words_of(d, fields, "node_args");
    let file = d.word(script);
    if let Some(file) = &file {
        check_script(d, fields, script, file, cwd);
    }
    let args = words_of(d, fields, "args");
    let mut words = vec![interpreter?];
    words.extend(node_args?);
    words.push(file?);
    words.extend(args?);
    Some(words)
}

fn from_command(
    d: &mut Decoder<'_>,
    fields: &Fields<'_>,
    command: &Field<'_>,
    cwd: &Path,
    env: &[(String, String)],
) -> Option<Vec<String>> {
    for name in ["args", "interpreter", "node_args"] {
        if let Some(field) = fields.get(name) {
            let message = format!("{} belongs to script, not to command", field.path);
            d.found.error(field.key_at, message, "write all words of the command into command");
        }
    }
    let words = d.words(command)?;
    let Some(program) = words.first() else {
        d.found.error(command.at(), format!("{} is empty", command.path), "write [program, argument]");
        return None;
    };
    let assigns = |word: &str| word.split_once('=').is_some_and(|(name, _)| is_variable(name));
    if assigns(program) {
        let message = format!("{} begins with an assignment, {}", command.path, shown(program));
        d.found.error(command.at(), message, "write variables under env");
        return None;
    }
    let before = d.found.count();
    check_program(d, command, program, cwd, env);
    let is_there = |field: &Field<'_>| {
        let dir = tidy(&d.base.join(field.text().unwrap_or_default()));
        d.machine.look(&dir, Seen::Directory) == Seen::Directory
    };
    // A wrong `cwd` is told once.
    if d.found.count() == before && fields.get("cwd").is_none_or(|field| is_there(&field)) {
        startable::check(d, command, &words, cwd, env);
    }
    Some(words)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn words_of(d: &mut Decoder<'_>, fields: &Fields<'_>, name: &'static str) -> Option<Vec<String>> {
    match fields.filled(name) {
        Some(field) => d.words(&field),
        None => Some(Vec::new()),
    }
}

fn check_script(d: &mut Decoder<'_>, fields: &Fields<'_>, field: &Field<'_>, file: &str, cwd: &Path) {
    let path = &field.path;
    if file.is_empty() || file.starts_with(['-', '~']) {
        let hint = match file.starts_with('~') {
            true => "\"~\" is not expanded: write ${HOME}/... or the whole path",
            false => "write the name of a file, as in app.js",
        };
        return d.found.error(field.at(), format!("{path}: {} is not a file", shown(file)), hint);
    }
    if file.contains(char::is_whitespace) && d.machine.look(&cwd.join(file), Seen::Missing) == Seen::Missing {
        let message = format!("{path}: there is no file {}", shown(file));
        return d.found.error(field.at(), message, "write arguments under args, or all of it as command");
    }
    let other = [("py", "python3"), ("rb", "ruby"), ("php", "php"), ("pl", "perl"), ("sh", "sh")];
    let extension = Path::new(file).extension().and_then(|extension| extension.to_str());
    if let Some((_, program)) = other.iter().find(|(known, _)| Some(*known) == extension)
        && fields.get("interpreter").is_none()
    {
        let message = format!("{path}: Node.js does not run {}", shown(file));
        let hint = format!("write command: [{program}, {file}, \"{{socket}}\"] with the words that your program takes");
        return d.found.error(field.at(), message, hint);
    }
    let whole = tidy(&cwd.join(file));
    let hint = match d.machine.look(&whole, Seen::File { executable: false }) {
        Seen::File { .. } => return,
        Seen::Missing => missing_script_hint(d, file, &whole),
        Seen::Directory => format!("{} is a directory: write the file in it, as in {file}/index.js", whole.display()),
        Seen::Other => format!("{} is not a regular file", whole.display()),
        Seen::Closed(why) => format!("{}: {why}", whole.display()),
    };
    let what = if hint.starts_with("looked") || hint.starts_with("write") { "there is no file" } else { "cannot use" };
    d.found.error(field.at(), format!("{path}: {what} {}", shown(file)), hint);
}

fn missing_script_hint(d: &Decoder<'_>, file: &str, whole: &Path) -> String {
    let there = |path: &Path| matches!(d.machine.look(path, Seen::Missing), Seen::File { .. });
    let extended =
        ["js", "cjs", "mjs", "ts"].into_iter().find(|ext| there(Path::new(&format!("{}.{ext}", whole.display()))));
    if let Some(extension) = extended {
        return format!("write {file}.{extension}");
    }
    if !file.contains('/') && find(d, file, &[]).is_some() {
        return format!("write command: [{file}, argument] for a program");
    }
    file_hint(whole)
}

pub(super) fn check_program(
    d: &mut Decoder<'_>,
    field: &Field<'_>,
    program: &str,
    cwd: &Path,
    env: &[(String, String)],
) {
    let path = &field.path;
    if program.is_empty() {
        return d.found.error(field.at(), format!("{path}: the name of the program is empty"), "");
    }
    if program.starts_with('~') {
        let hint = "write ${HOME}/... or the whole path";
        return d.found.error(field.at(), format!("{path}: \"~\" is not expanded"), hint);
    }
    if !program.contains('/') {
        if find(d, program, env).is_none() {
            let message = format!("{path}: there is no program {} in PATH", shown(program));
            let hint = absent_program_hint(d, program, cwd);
            d.found.error(field.at(), message, hint);
        }
        return;
    }
    let whole = tidy(&cwd.join(program));
    let (message, hint) = match d.machine.look(&whole, Seen::File { executable: true }) {
        Seen::File { executable: true } => return,
        Seen::File { executable: false } => ("is not executable", format!("run chmod +x {}", whole.display())),
        Seen::Missing => ("is not there", format!("looked at {}", whole.display())),
        Seen::Directory => ("is a directory", "write the program in it".to_owned()),
        Seen::Other => ("is not a regular file", String::new()),
        Seen::Closed(why) => ("cannot be used", why),
    };
    d.found.error(field.at(), format!("{path}: the program {} {message}", shown(program)), hint);
}

fn absent_program_hint(d: &Decoder<'_>, program: &str, cwd: &Path) -> String {
    let there = |path: PathBuf| matches!(d.machine.look(&path, Seen::Missing), Seen::File { .. });
    if there(cwd.join("node_modules/.bin").join(program)) {
        return format!("write ./node_modules/.bin/{program}");
    }
    if there(cwd.join(program)) {
        return format!("write ./{program}");
    }
    "install it, or write its whole path".to_owned()
}

/// `{port}` and misspelt placeholders would reach the program as they are.
fn unknown_placeholders(d: &mut Decoder<'_>, fields: &Fields<'_>, words: &[String], at: Option<super::error::Place>) {
    for word in words {
        let Some(name) = word.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name) else {
            continue;
        };
        let hint = match name {
            "socket" | "slot" => continue,
            "port" | "PORT" => "workers listen on \"{socket}\"; the public port stands under listeners".to_owned(),
            name => match nearest(name, ["socket", "slot"]) {
                Some(near) => format!("did you mean {{{near}}}?"),
                None => continue,
            },
        };
        d.found.warn(at, format!("{}: {} stays as it is", fields.path, shown(&format!("{{{name}}}"))), hint);
    }
}
