//! What the documents and the example files say.

use super::*;

#[test]
fn the_commented_file_has_every_key_and_only_defaults() {
    let text = repository("conf/commented.yaml");
    let plain = format!("{:?}", good("apps: {chat: {script: ../examples/chat/server.js}}"));
    assert_eq!(format!("{:?}", good(&text)), plain);
    let missing: Vec<_> = ALL
        .iter()
        .flat_map(|section| section.names())
        .filter(|name| {
            let at = |line: &str| line.trim_start_matches([' ', '#', '-']).starts_with(&format!("{name}:"));
            !text.lines().any(at) && !text.contains(&format!("{{{name}:")) && !text.contains(&format!(", {name}:"))
        })
        .collect();
    assert!(missing.is_empty(), "conf/commented.yaml lacks {missing:?}");
}

/// The reference has one table for each section of the schema, with one row for each key, in any order.
#[test]
fn the_reference_is_true() {
    let text = repository("docs/configuration.md");
    let rows: BTreeSet<String> = text.lines().filter(|line| line.starts_with("| `")).map(row_start).collect();
    let expected: BTreeSet<String> = ALL.iter().flat_map(|section| section.keys).map(schema::row).collect();
    let missing: Vec<_> = expected.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks\n{missing:#?}");
    let stray: Vec<_> = rows.difference(&expected).filter(|row| !row.contains("| - |")).collect();
    assert!(stray.is_empty(), "docs/configuration.md has what the schema has not\n{stray:#?}");
    for section in ALL {
        for (word, _) in section.elsewhere {
            assert!(!section.names().any(|name| name == *word), "{word} is both a key and a word from elsewhere");
        }
    }
}

/// Key, type and default of a row.
fn row_start(line: &str) -> String {
    line.split(" | ").take(3).collect::<Vec<_>>().join(" | ")
}
