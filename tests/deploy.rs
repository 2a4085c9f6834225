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

#[test]
fn the_configuration_for_systemd_is_good() {
    let files = files("deploy/systemd");
    assert_eq!(files.len(), 1);
    for file in files {
        assert_good(&file, &std::fs::read_to_string(&file).expect("readable"));
    }
}
