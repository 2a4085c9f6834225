//! Commands, and apps that are given there.

use super::*;

#[test]
fn a_command_needs_no_file() {
    let dir = std::env::temp_dir().join(format!("pup some dir {}", std::process::id()));
    let script = dir.join("My app.v2.js");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(&script, "").unwrap();
    let command = ["node".into(), "--inspect".into(), script.to_str().unwrap().to_owned()];
    let config = from_command(&command).expect("good").0;
    std::fs::remove_dir_all(&dir).unwrap();
    let [app] = config.apps.as_slice() else { panic!() };
    assert_eq!(app.name, "My-app-v2");
    assert_eq!(app.spec.cwd, std::env::current_dir().unwrap());
    assert_eq!(app.policy.instances, Here.cpus());
    assert_eq!(config.listeners, [Listener::plain(listeners::DEFAULT)]);
    let absent = from_command(&["no-such-program-anywhere".into()]).expect_err("bad");
    let text = lines(&absent);
    assert!(text.starts_with("command line: apps.no-such-program-anywhere.command: there is no program"), "{text}");
    // `${` on a command line is the shell's business, not ours.
    let literal = from_command(&["node".into(), "${NONE}".into()]).expect("good").0;
    assert_eq!(literal.apps[0].spec.command[1], "${NONE}");
    for (command, name) in [("npm start", "npm"), ("node -e 1", "1"), ("node", "node"), ("/bin/ünï", "n")] {
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        assert_eq!(app_name(&words), name, "{command}");
    }
}

fn cli(line: &str) -> Result<Cli, cli::Stop> {
    Cli::parse(line.split(' ').map(std::ffi::OsString::from))
}

#[test]
fn the_command_line_is_read() {
    let file = |test, upgrade, daemon| Cli { source: Source::File("c.yaml".into()), test, upgrade, daemon };
    assert_eq!(cli("p -c c.yaml"), Ok(file(false, false, false)));
    assert_eq!(cli("p -t --conf c.yaml"), Ok(file(true, false, false)));
    assert_eq!(cli("p -udc c.yaml"), Ok(file(false, true, true)));
    assert_eq!(cli("p --upgrade --daemon --test --conf=c.yaml"), Ok(file(true, true, true)));
    const APP: &str = "tests/config/files/app.js";
    let command = cli(&format!("p -t -- node {APP} -c x --help")).expect("good");
    assert_eq!(command.source, Source::Command(["node", APP, "-c", "x", "--help"].map(str::to_owned).to_vec()));
    let (text, good) = report(&command);
    assert!(good, "{text}");
    assert!(text.starts_with("command line: ok: 1 app, "), "{text}");
}

#[test]
fn a_wrong_command_line_says_what_to_write() {
    for (line, words) in [
        ("p", "neither -c FILE nor a command"),
        ("p -t", "neither -c FILE nor a command"),
        ("p -c c.yaml -- node app.js", "both -c FILE and a command"),
        ("p node app.js", "write -- in front of a command: pingora-unix-proxy -- node app.js"),
        ("p conf.yaml", "write -c conf.yaml"),
        ("p -t conf.yaml", "write -c conf.yaml"),
        ("p --cnof c.yaml", "--conf"),
        ("p -c", "FILE"),
        ("p -x", "-x"),
        ("p -c a -c b", "--conf"),
        ("p --", "neither -c FILE nor a command"),
    ] {
        let stop = cli(line).expect_err(line);
        assert_eq!(stop.code, 2, "{line}");
        assert!(stop.text.contains(words) && stop.text.ends_with('\n'), "{line}: {}", stop.text);
    }
    use std::os::unix::ffi::OsStringExt;
    let raw = ["p".into(), "--".into(), std::ffi::OsString::from_vec(vec![0xff])];
    assert!(Cli::parse(raw).expect_err("bad").text.contains("is not UTF-8"));
    let version = cli("p --version").expect_err("stop");
    assert_eq!(
        (version.code, version.text.as_str()),
        (0, concat!("pingora-unix-proxy ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    for help in ["p --help", "p -h"] {
        let stop = cli(help).expect_err("stop");
        assert_eq!(stop.code, 0);
        for word in ["-c FILE", "-- COMMAND", "--test", "--upgrade", "--daemon", "EXAMPLES"] {
            assert!(stop.text.contains(word), "{word} is not in\n{}", stop.text);
        }
        println!("{}", stop.text);
    }
}
