//! Files that are none, or that mean harm.

use super::*;

#[test]
fn hostile_yaml_is_bounded() {
    let deep = "[".repeat(100_000);
    assert!(errors(&format!("apps: {deep}")).contains("nested more than 32 deep"));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..40 {
        let before = format!("*a{}, ", i - 1).repeat(10);
        bomb += &format!("a{i}: &a{i} [{before}]\n");
    }
    assert!(errors(&bomb).contains("more than 100000 values"), "{}", errors(&bomb));
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for i in 1..5_000 {
        chain += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert!(errors(&chain).contains("nested more than 32 deep"));
    assert!(errors("a: &a [*a]").contains("inside what it names"));
    assert!(errors(&"k: 1\n".repeat(51_000)).contains("more than 100000 values"));
    let many = (0..30_000).map(|i| format!("k{i}: 1\n")).collect::<String>();
    assert_eq!(errors(&many).lines().count(), 200);
    let list = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(|i| item(i) + ", ").collect::<String>();
    let listeners = list(20_000, &|i| format!("{{address: '10.0.{}.{}:1'}}", i / 256, i % 256));
    assert!(errors(&format!("listeners: [{listeners}]")).contains("20000 listeners, and at most 64"));
    let (apps, routes) =
        (list(5_000, &|i| format!("a{i}: {{script: a}}")), list(5_000, &|i| format!("{{path: /{i}, app: b{i}}}")));
    let crowd = errors(&format!("apps: {{{apps}}}\nroutes: [{routes}]"));
    assert!(crowd.contains("5000 apps, and at most 256") && crowd.contains("5000 routes, and at most 4096"), "{crowd}");
    let merges = format!("x: &x {{{}}}\napps: {{<<: [{}]}}", "k: 1, ".repeat(2_000), "*x, ".repeat(20));
    assert!(errors(&merges).contains("unknown key"), "{}", errors(&merges));
    // Line breaks to serde_yaml only: an alias bomb could hide behind them.
    assert!(errors("\u{2028}&b [*b]").contains("U+2028"));
    assert!(errors("a: \u{0}").contains("control character U+0000"));
    assert!(errors("apps: {a: {script: \"a\\0.js\"}}").contains("NUL"));
    assert!(errors("").contains("is empty"));
    assert!(errors("# only a comment\n").contains("is empty"));
    assert!(errors("---\napps: {}\n---\napps: {}").contains("3:1: a second document"));
}

#[test]
fn files_that_are_none_are_named() {
    let dir = std::env::temp_dir().join(format!("pup-config-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let error = |file: &Path| lines(&load(file).expect_err("bad"));
    assert!(error(&dir).contains("is a directory"));
    assert!(error(&dir.join("none.yaml")).contains("cannot be read: no such file"));
    assert!(error(Path::new("/dev/zero")).contains("is not a regular file"));
    let file = dir.join("conf.yaml");
    std::fs::write(&file, [b'a', b'\n', 0xff, 0xfe]).unwrap();
    assert!(error(&file).contains("is not UTF-8 on line 2"));
    std::fs::write(&file, "# x\n".repeat(300_000)).unwrap();
    assert!(error(&file).contains("is larger than 1048576 bytes"));
    std::fs::write(&file, "\u{feff}apps:\r\n  chat:\r\n    script: appp.js\r\n").unwrap();
    std::fs::write(dir.join("app.js"), "").unwrap();
    let text = error(&file);
    assert!(text.contains("conf.yaml:3:13: apps.chat.script: there is no file"), "{text}");
    assert!(text.contains("did you mean app.js?"), "{text}");
    std::fs::write(&file, "\u{feff}apps:\r\n  chat:\r\n    script: app.js\r\n").unwrap();
    let (config, _) = load(&file).expect("good");
    assert_eq!(config.apps[0].spec.cwd, dir);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Cuts, repeats, swaps and replaces parts of real configurations: whatever comes out is read or refused,
/// never a panic, and every place is in the file.
#[test]
fn mutated_configurations_never_panic() {
    let seeds = [repository("conf/commented.yaml"), repository("tests/config/five_mistakes.yaml"), SAMPLE.to_owned()];
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1_000);
    let seed = std::env::var("FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let text = mutate(&mut rng, &seeds);
        if let Err(errors) = on(&Paper { root: false }, &text) {
            let count = text.split('\n').count() + 1;
            for error in errors {
                let line = error.place.map_or(1, |place| place.line);
                assert!((1..=count).contains(&line), "round {round}: {error}\n{text}");
            }
        }
    }
}

const SAMPLE: &str =
    "x: &x {a: 1}\napps:\n  a: {<<: *x, script: \"${A:-b}\", env: {B: 'c', D: |\n    e\n }}\n- ? k\n  : v\n";

fn mutate(rng: &mut fastrand::Rng, seeds: &[String]) -> String {
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "<<: *a",
        "!!str ",
        "!x ",
        "\"",
        "'",
        "|\n",
        ">\n",
        "#",
        "\t",
        "\n",
        "\n\n",
        "  ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "${",
        "}",
        "$${",
        "${HOME}",
        "${NO}",
        "null",
        "~",
        "true",
        "-1",
        "1e999",
        "0x1f",
        "é",
        "\u{0}",
        "\u{2028}",
        "\u{85}",
        "99999999999999999999999999",
        "99999999999h",
        "9e99gb",
        "{socket}",
        "&b [*b]",
        "@",
        "`",
        ",",
    ];
    let seed = rng.choice(seeds).expect("seeds");
    let mut chars: Vec<char> = seed.chars().collect();
    for _ in 0..rng.usize(1..=6) {
        let at = rng.usize(0..=chars.len());
        let end = (at + rng.usize(0..40)).min(chars.len());
        match rng.u8(0..5) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let piece: Vec<char> = rng.choice(PIECES).expect("pieces").chars().collect();
                chars.splice(at..at, piece);
            }
            2 => {
                let copy = chars[at..end].to_vec();
                let to = rng.usize(0..=chars.len());
                chars.splice(to..to, copy);
            }
            3 => {
                let piece: Vec<char> = rng.choice(PIECES).expect("pieces").chars().collect();
                chars.splice(at..end, piece);
            }
            _ => chars.truncate(at.max(10)),
        }
    }
    chars.into_iter().collect()
}
