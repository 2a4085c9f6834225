//! Configurations as files: pairs of an input and exactly what is found in it, the files in conf/ and the
//! blocks of the documentation.
//!
//! `UPDATE_EXPECTED=1 cargo test --test config` writes what is found; read the difference before you keep it.

use pingora_unix_proxy::config::{Error, Warning, check, check_on_paper};
use std::path::{Path, PathBuf};

/// "ok" and the warnings, or the errors, a line each. Paths do not depend on where the repository is.
fn outcome(result: Result<Vec<Warning>, Vec<Error>>) -> String {
    let lines: Vec<String> = match result {
        Ok(warnings) => {
            let warnings = warnings.iter().map(|warning| format!("{warning} (warning)\n"));
            ["ok\n".to_owned()].into_iter().chain(warnings).collect()
        }
        Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
    };
    lines.concat().replace(env!("CARGO_MANIFEST_DIR"), "ROOT")
}

fn yaml_files(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{dir}: {error}"));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn every_mistake_is_told_exactly() {
    let files = yaml_files("tests/config");
    let mut bad = 0;
    let mut different = Vec::new();
    for file in &files {
        let found = outcome(check(file));
        bad += usize::from(!found.starts_with("ok\n"));
        let expected = file.with_extension("txt");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&expected, &found).expect("written");
        } else if found != read(&expected) {
            different.push(format!("{}\nexpected:\n{}found:\n{found}", file.display(), read(&expected)));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(bad >= 40, "only {bad} bad configurations were seen");
    assert!(files.len() > bad, "no good configuration was seen");
}

#[test]
fn five_mistakes_give_five_errors() {
    let errors = check(Path::new("tests/config/five_mistakes.yaml")).expect_err("mistakes");
    let places: Vec<String> = errors.iter().filter_map(|error| Some(error.place?.to_string())).collect();
    assert_eq!(places, ["3:15", "6:5", "7:16", "8:20", "10:35"], "{errors:#?}");
    assert!(errors.iter().all(|error| error.hint.is_some()), "each says what to write instead: {errors:#?}");
    // The documentation shows them.
    let shown = outcome(Err(errors)).replace("tests/config/five_mistakes.yaml", "conf.yaml");
    assert!(read(Path::new("docs/configuration.md")).contains(&shown), "docs/configuration.md should show\n{shown}");
}

#[test]
fn files_in_conf_are_good() {
    let files = yaml_files("conf");
    for file in &files {
        let found = outcome(check_on_paper(file, &read(file)));
        assert_eq!(found, "ok\n", "{}", file.display());
    }
    assert!(files.len() >= 2, "{files:?}");
}

#[test]
fn blocks_of_the_documentation_are_good() {
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir("docs").expect("docs").map(|entry| entry.expect("an entry").path()).collect();
    pages.extend(Path::new("README.md").exists().then(|| "README.md".into()));
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let mut seen = 0;
    for page in &pages {
        for (line, block) in blocks(&read(page)) {
            let found = outcome(check_on_paper(page, &block));
            assert!(found.starts_with("ok\n"), "{}, the block from line {line}:\n{found}", page.display());
            seen += usize::from(page.ends_with("configuration.md"));
        }
    }
    assert!(seen > 0, "docs/configuration.md has no block of yaml");
}

/// The text between "```yaml" and "```", each with the number of its first line.
fn blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in page.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim() == "```" => blocks.extend(open.take()),
            Some((_, block)) => block.extend([line, "\n"]),
            None if line.trim() == "```yaml" => open = Some((number + 2, String::new())),
            None => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}
