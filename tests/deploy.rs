//! The configurations in deploy/ load: the systemd example, and those in the ConfigMaps of deploy/kubernetes.

use pingora_unix_proxy::config::check_on_paper;
use serde::Deserialize;
use std::path::{Path, PathBuf};

fn files(dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{dir}: {error}"));
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// Neither mistakes nor warnings.
fn assert_good(file: &Path, text: &str) {
    match check_on_paper(file, text) {
        Ok(warnings) if warnings.is_empty() => {}
        Ok(warnings) => panic!("{}: {}", file.display(), warnings[0]),
        Err(errors) => panic!("{}: {}", file.display(), errors[0]),
    }
}

#[test]
fn the_configurations_of_the_manifests_are_good() {
    let mut seen = 0;
    for file in files("deploy/kubernetes") {
        let text = std::fs::read_to_string(&file).expect("readable");
        for document in serde_yaml::Deserializer::from_str(&text) {
            let document = serde_yaml::Value::deserialize(document).expect("YAML");
            if document["kind"] == "ConfigMap" {
                let config = document["data"]["conf.yaml"].as_str().expect("a conf.yaml in each ConfigMap");
                assert_good(&file, config);
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 3, "one for each form");
}

/// The lines of a comment right above the line that has `key`, and what follows the key.
fn comment_and_value(text: &str, key: &str) -> (String, String) {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#'));
    let mut comment: Vec<&str> = above.map(|line| line.trim_start_matches('#').trim()).collect();
    comment.reverse();
    (comment.join(" "), lines[at][key.len()..].trim().to_owned())
}

#[test]
fn grace_periods_are_the_sums_that_stand_beside_them() {
    for file in files("deploy/kubernetes") {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (comment, value) = comment_and_value(&text, "terminationGracePeriodSeconds:");
        let words: Vec<&str> = comment.split_whitespace().collect();
        let mut sum = 0;
        for (i, pair) in words.windows(2).enumerate() {
            let (Ok(seconds), "s") = (pair[0].parse::<u32>(), pair[1]) else { continue };
            sum += seconds;
            let told = match i.checked_sub(1).map(|before| words[before]) {
                Some("preStop") => format!("sleep: {{seconds: {seconds}}}"),
                Some(key) if key.contains('_') => format!("{key}: {seconds}s"),
                _ => continue,
            };
            assert!(text.contains(&told), "{}: the comment has {told}, the file has not", file.display());
        }
        assert_eq!(sum.to_string(), value, "{}: {comment}", file.display());
    }
}

/// That the page of metrics really has it is tested end to end (sidecar.test.mjs).
#[test]
fn the_metric_that_scales_is_the_one_of_the_rule_and_documented() {
    let documented = std::fs::read_to_string("docs/operations.md").expect("readable");
    for file in files("deploy/kubernetes") {
        let text = std::fs::read_to_string(&file).expect("readable");
        let between = |start: &str, end: char| {
            let (_, rest) = text.split_once(start).expect(start);
            rest.split(end).next().unwrap_or_default().to_owned()
        };
        assert_eq!(between("name: {as: ", '}'), between("metric: {name: ", '}'), "{}", file.display());
        let series = between("seriesQuery: '", '{');
        assert!(documented.contains(&format!("\n| {series} | gauge |")), "{}: {series}", file.display());
    }
}

#[test]
fn the_unit_names_what_an_install_puts_there_and_stops_at_mistakes_that_no_restart_mends() {
    let unit = std::fs::read_to_string("deploy/systemd/pingora-unix-proxy.service").expect("readable");
    let steps = std::fs::read_to_string("docs/deployment.md").expect("readable");
    let values = |key: &str| {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values("RestartPreventExitStatus"), ["2", "78"]);
    assert!(values("ExecStartPre").is_empty(), "its exit code would not count");
    let pages = values("Documentation");
    assert!(!pages.is_empty());
    for page in pages {
        let (dir, name) = page.strip_prefix("file://").and_then(|page| page.rsplit_once('/')).expect("a file");
        assert!(Path::new("docs").join(name).exists(), "{page}");
        assert!(steps.contains(&format!("-t {dir} docs/*.md")), "{page} is installed by no step");
    }
}

#[test]
fn documents_use_no_option_that_the_oldest_systemd_lacks() {
    for page in ["docs/configuration.md", "docs/deployment.md", "docs/operations.md", "README.md"] {
        let text = std::fs::read_to_string(page).expect("readable");
        // From 252 on; the unit works from 247 on.
        assert!(!text.contains("--kill-whom"), "{page}");
    }
}

#[test]
fn the_configuration_for_systemd_is_good() {
    let files = files("deploy/systemd");
    assert_eq!(files.len(), 1);
    for file in files {
        assert_good(&file, &std::fs::read_to_string(&file).expect("readable"));
    }
}
