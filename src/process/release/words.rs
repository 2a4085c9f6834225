//! The files that a command names, and where they lead.

use std::path::{Path, PathBuf};

/// A word of a command that names a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// As it is written.
    pub(super) word: String,
    /// Where it leads, without any link.
    pub(super) real: PathBuf,
}

/// A command, and the files that it names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The same command, with paths that lead to the same files when links on the way lead elsewhere.
    pub(super) pinned: Vec<String>,
    /// In their order; the program is the first, if it was found.
    pub(super) named: Vec<Named>,
}

/// `cwd` has no links. `is_node`: Node.js gets the words, and it resolves its script itself. `path`: directories in
/// which the program is looked for.
pub(super) fn pin(command: &[String], cwd: &Path, is_node: bool, path: &[PathBuf]) -> Words {
    let mut words = Words { pinned: command.to_vec(), named: Vec::new() };
    // They say that it matters by which path a file is reached.
    let keep = command.iter().any(|word| word.starts_with("--preserve-symlinks"));
    let script = command.iter().skip(1).position(|word| !word.starts_with('-')).map(|at| at + 1);
    for (at, word) in command.iter().enumerate() {
        // `{socket}` and `{slot}` are filled in for each worker.
        if word.contains(['{', '\0', '\n']) || word.is_empty() {
            continue;
        }
        if at == 0 {
            program(&mut words, word, cwd, path);
            continue;
        }
        let value = word.strip_prefix('-').and_then(|option| option.split_once('=')).map(|(_, value)| value);
        let (text, is_option) = value.map_or((word.as_str(), word.starts_with('-')), |value| (value, true));
        let is_script = is_node && script == Some(at);
        let Some(found) = find(text, cwd, is_script) else { continue };
        let Ok(real) = found.canonicalize() else { continue };
        words.named.push(Named { word: text.to_owned(), real: real.clone() });
        if is_option || keep {
            continue;
        }
        // Another program may ask by which name it was called: only the directories on the way are resolved.
        let lasting = if is_node { Some(real) } else { resolved_directory(&found) };
        if let Some(lasting) = lasting.filter(|lasting| *lasting != found)
            && let (Some(pinned), Some(text)) = (words.pinned.get_mut(at), lasting.to_str())
        {
            *pinned = text.to_owned();
        }
    }
    words
}

/// Its name is kept, for it may say what the program is to be.
fn program(words: &mut Words, word: &str, cwd: &Path, path: &[PathBuf]) {
    if !word.contains('/') {
        let file = path.iter().map(|directory| cwd.join(directory).join(word)).find(|file| file.is_file());
        if let Some(real) = file.and_then(|file| file.canonicalize().ok()) {
            words.named.push(Named { word: word.to_owned(), real });
        }
        return;
    }
    let found = cwd.join(word);
    let Ok(real) = found.canonicalize() else { return };
    words.named.push(Named { word: word.to_owned(), real });
    if let Some(lasting) = resolved_directory(&found).filter(|lasting| *lasting != found)
        && let (Some(pinned), Some(text)) = (words.pinned.first_mut(), lasting.to_str())
    {
        *pinned = text.to_owned();
    }
}

/// The file or directory that a word names. What only looks like a name by chance, as `start` in `npm start`, has
/// neither a slash nor a dot.
fn find(text: &str, cwd: &Path, is_script: bool) -> Option<PathBuf> {
    if text.is_empty() || !(is_script || text.contains(['/', '.'])) {
        return None;
    }
    let path = cwd.join(text);
    if path.is_file() || (path.is_dir() && (is_script || text.contains('/'))) {
        return Some(path);
    }
    // As Node.js completes the name of its script.
    let completed = ["js", "json", "node"].into_iter().map(|extension| {
        let mut name = path.clone().into_os_string();
        name.push(".");
        name.push(extension);
        PathBuf::from(name)
    });
    if is_script { completed.into_iter().find(|file| file.is_file()) } else { None }
}

fn resolved_directory(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::Temp;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    /// Releases r1 and r2 with `current` leading to r1.
    fn releases() -> (Temp, PathBuf) {
        let temp = Temp::new();
        let dir = temp.0.canonicalize().unwrap();
        for release in ["r1", "r2"] {
            fs::create_dir_all(dir.join(release).join("bin")).unwrap();
            fs::write(dir.join(release).join("app.js"), release).unwrap();
            fs::write(dir.join(release).join("bin/run"), release).unwrap();
        }
        symlink("r1", dir.join("current")).unwrap();
        symlink("current/app.js", dir.join("app.js")).unwrap();
        (temp, dir)
    }

    fn pinned(command: &str, dir: &Path, is_node: bool) -> String {
        pin(&words(command), dir, is_node, &[]).pinned.join(" ").replace(&format!("{}/", dir.display()), "DIR/")
    }

    #[test]
    fn a_script_behind_a_link_is_pinned() {
        let (_temp, dir) = releases();
        assert_eq!(pinned("node current/app.js x", &dir, true), "node DIR/r1/app.js x");
        assert_eq!(pinned("node app.js", &dir, true), "node DIR/r1/app.js");
        assert_eq!(pinned("node current/app", &dir, true), "node DIR/r1/app.js");
        assert_eq!(pinned("node current", &dir, true), "node DIR/r1");
        let absolute = format!("node --inspect {}/current/app.js -p=1", dir.display());
        assert_eq!(pinned(&absolute, &dir, true), "node --inspect DIR/r1/app.js -p=1");
        assert_eq!(pinned("node --preserve-symlinks-main app.js", &dir, true), "node --preserve-symlinks-main app.js");
    }

    #[test]
    fn what_needs_no_pin_stays_as_it_is() {
        let (_temp, dir) = releases();
        for command in ["node r1/app.js", "node ./r1/app.js", "node missing.js", "npm start", "node app-{slot}.js"] {
            assert_eq!(pinned(command, &dir, true), command);
        }
        // A link by the name of a word that names no file.
        symlink("r1", dir.join("start")).unwrap();
        assert_eq!(pinned("npm run start", &dir, true), "npm run start");
    }

    #[test]
    fn other_programs_keep_their_names() {
        let (_temp, dir) = releases();
        symlink("current/bin/run", dir.join("run")).unwrap();
        assert_eq!(pinned("current/bin/run current/app.js", &dir, false), "DIR/r1/bin/run DIR/r1/app.js");
        assert_eq!(pinned("./run ./app.js", &dir, false), "./run ./app.js");
        let named = pin(&words("./run ./app.js"), &dir, false, &[]).named;
        assert_eq!(
            named.iter().map(|n| n.real.clone()).collect::<Vec<_>>(),
            [dir.join("r1/bin/run"), dir.join("r1/app.js")]
        );
    }

    #[test]
    fn files_of_options_and_the_program_are_known() {
        let (_temp, dir) = releases();
        fs::write(dir.join(".env"), "A=1").unwrap();
        let found = pin(&words("run --env-file=.env current/app.js"), &dir, true, &[dir.join("r2/bin")]);
        let named: Vec<_> = found.named.iter().map(|n| (n.word.as_str(), n.real.clone())).collect();
        let wanted =
            [("run", dir.join("r2/bin/run")), (".env", dir.join(".env")), ("current/app.js", dir.join("r1/app.js"))];
        assert_eq!(named, wanted);
    }
}
