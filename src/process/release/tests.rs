//! Deploys in every form, as a reload finds them.

use super::super::tests::Temp;
use super::*;
use std::fs;
use std::os::unix::fs::symlink;

struct App {
    temp: Temp,
    dir: PathBuf,
    spec: Spec,
}

impl App {
    /// An app in releases/1, `current` leading there, and files that it runs.
    fn new(command: &[&str]) -> App {
        let temp = Temp::new();
        let dir = temp.0.canonicalize().unwrap();
        let app = App { spec: Spec::of(command, dir.join("current")), temp, dir };
        for release in ["1", "2"] {
            app.write(&format!("releases/{release}/server.js"), "1");
            app.write(&format!("releases/{release}/lib/routes.js"), "1");
            app.write(&format!("releases/{release}/package.json"), "{}");
        }
        app.lead("releases/1");
        app
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn lead(&self, to: &str) {
        let _ = fs::remove_file(self.dir.join("current"));
        symlink(to, self.dir.join("current")).unwrap();
    }

    fn take(&self) -> (Spec, Release) {
        take(&self.spec, Vec::new()).unwrap()
    }

    fn changes(&self, before: &Release) -> Vec<String> {
        let changes = before.changes(&self.take().1);
        changes.into_iter().map(|text| text.replace(&self.dir.display().to_string(), "DIR")).collect()
    }
}

#[test]
fn nothing_changed() {
    let app = App::new(&["node", "server.js"]);
    let (pinned, release) = app.take();
    assert_eq!((pinned.cwd, pinned.command.join(" ")), (app.dir.join("releases/1"), "node server.js".to_owned()));
    assert_eq!(app.changes(&release), [""; 0]);
    // Written down and read again.
    let text = serde_json::to_vec(&release).unwrap();
    assert_eq!(serde_json::from_slice::<Release>(&text).unwrap(), release);
    assert!(release.since().starts_with("20") && release.since().ends_with('Z'));
}

#[test]
fn a_link_in_cwd_leads_elsewhere() {
    let app = App::new(&["node", "server.js"]);
    let (_, release) = app.take();
    app.lead("releases/2");
    assert_eq!(app.changes(&release), ["cwd now leads to DIR/releases/2"]);
    assert_eq!(app.take().0.cwd, app.dir.join("releases/2"));
}

#[test]
fn a_link_in_the_command_leads_elsewhere() {
    let mut app = App::new(&["node", "current/server.js"]);
    app.spec.cwd = app.dir.clone();
    let (pinned, release) = app.take();
    assert_eq!(pinned.command[1], app.dir.join("releases/1/server.js").display().to_string());
    app.lead("releases/2");
    assert_eq!(app.changes(&release), ["current/server.js now leads to DIR/releases/2/server.js"]);
    assert_eq!(app.take().0.command[1], app.dir.join("releases/2/server.js").display().to_string());
}

#[test]
fn files_changed_in_place() {
    let app = App::new(&["node", "server.js"]);
    for (file, told) in [
        ("server.js", "server.js changed"),
        ("lib/routes.js", "lib/routes.js changed"),
        ("lib/new.js", "lib/new.js changed"),
        ("package.json", "package.json changed"),
        ("package-lock.json", "package-lock.json is new"),
        ("node_modules/.package-lock.json", "node_modules/.package-lock.json is new"),
        ("node_modules/.package-lock.json", "node_modules/.package-lock.json changed"),
        (".env", ".env changed"),
        (".next/BUILD_ID", ".next/BUILD_ID is new"),
    ] {
        let (_, release) = app.take();
        app.write(&format!("releases/1/{file}"), &format!("changed for {told}"));
        assert_eq!(app.changes(&release), [told]);
    }
    let (_, release) = app.take();
    fs::remove_file(app.dir.join("releases/1/lib/new.js")).unwrap();
    assert_eq!(app.changes(&release).len(), 1, "{:?}", app.changes(&release));
    for n in 0..5 {
        app.write(&format!("releases/1/many{n}.js"), "1");
    }
    assert_eq!(app.changes(&release).len(), 4, "three by name: {:?}", app.changes(&release));
}

#[test]
fn a_commit_counts_whatever_it_changes() {
    let app = App::new(&["node", "server.js"]);
    app.write("releases/1/.git/HEAD", "1111111111111111111111111111111111111111\n");
    let (_, release) = app.take();
    app.write("releases/1/.git/HEAD", "2222222222222222222222222222222222222222\n");
    app.write("releases/1/README.md", "new");
    assert_eq!(app.changes(&release), ["commit 2222222222 instead of 1111111111"]);
}

#[test]
fn a_workspace_is_looked_at_as_a_whole() {
    let mut app = App::new(&["node", "server.js"]);
    app.write("mono/package.json", r#"{"workspaces": ["packages/*"]}"#);
    app.write("mono/packages/web/package.json", "{}");
    app.write("mono/packages/web/server.js", "1");
    app.write("mono/packages/shared/index.js", "1");
    app.write("mono/package-lock.json", "{}");
    app.spec.cwd = app.dir.join("mono/packages/web");
    let (_, release) = app.take();
    app.write("mono/packages/shared/index.js", "changed");
    assert_eq!(app.changes(&release), ["DIR/mono/packages/shared/index.js changed"]);
    let (_, release) = app.take();
    app.write("mono/package-lock.json", "{ }");
    assert_eq!(app.changes(&release), ["DIR/mono/package-lock.json changed"]);
}

#[test]
fn a_proxys_own_directory_below_the_app_is_no_code() {
    let mut app = App::new(&["node", "server.js"]);
    app.write("site/server.js", "1");
    for (name, text) in [("lock", "1"), ("control.sock", ""), ("state.json", "{}")] {
        app.write(&format!("site/run/{name}"), text);
    }
    app.spec.cwd = app.dir.join("site");
    let (_, release) = app.take();
    app.write("site/run/state.json", "{ }");
    assert!(app.changes(&release).is_empty());
    app.write("site/server.js", "22");
    assert_eq!(app.changes(&release), ["server.js changed"]);
}

#[test]
fn a_package_file_far_above_by_accident_hides_nothing() {
    let mut app = App::new(&["node", "server.js"]);
    app.write("home/package.json", "{}");
    app.write("home/sites/web/server.js", "1");
    app.write("home/sites/web/lib/routes.js", "1");
    fs::create_dir(app.dir.join("home/a")).unwrap();
    for n in 0..=tree::MOST {
        fs::write(app.dir.join(format!("home/a/{n}.txt")), "").unwrap();
    }
    app.spec.cwd = app.dir.join("home/sites/web");
    let (_, release) = app.take();
    assert_eq!(release.bound(), None);
    app.write("home/sites/web/lib/routes.js", "changed");
    assert_eq!(app.changes(&release), ["lib/routes.js changed"]);
}

#[test]
fn files_of_variables_are_read_and_compared() {
    let mut app = App::new(&["node", "server.js"]);
    app.write("shared/a.env", "A=1\nB=1\n");
    app.write("shared/b.env", "B=2\n");
    app.spec.env_file = vec![app.dir.join("shared/a.env"), app.dir.join("shared/b.env")];
    let (pinned, release) = take(&app.spec, vec![("S".into(), "sent".into())]).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(pinned.given.read, [pair("A", "1"), pair("B", "1"), pair("B", "2")]);
    assert_eq!(pinned.given.sent, [pair("S", "sent")]);
    app.write("shared/b.env", "B=33\n");
    assert_eq!(app.changes(&release), ["DIR/shared/b.env changed"]);
    // With a link that leads elsewhere, too.
    app.lead("releases/2");
    assert_eq!(app.changes(&release), ["cwd now leads to DIR/releases/2", "DIR/shared/b.env changed"]);
    app.write("shared/b.env", "B\n");
    let why = take(&app.spec, Vec::new()).unwrap_err();
    assert_eq!(why, format!("{}/shared/b.env:1: \"B\" is not NAME=value", app.dir.display()));
}

#[test]
fn a_program_of_a_package_is_not_the_app() {
    let mut app = App::new(&["node", "node_modules/.bin/next", "start"]);
    app.write("releases/1/node_modules/next/package.json", "{}");
    app.write("releases/1/node_modules/next/cli.js", "1");
    fs::create_dir(app.dir.join("releases/1/node_modules/.bin")).unwrap();
    symlink("../next/cli.js", app.dir.join("releases/1/node_modules/.bin/next")).unwrap();
    let (_, release) = app.take();
    app.write("releases/1/lib/routes.js", "changed");
    assert_eq!(app.changes(&release), ["lib/routes.js changed"]);
    let (_, release) = app.take();
    app.write("releases/1/node_modules/next/cli.js", "changed");
    assert_eq!(app.changes(&release), ["node_modules/next/cli.js changed"]);
    // The root of the file system is nobody's code.
    app.spec = Spec::of(&["node", "-e", "0"], "/");
    assert!(app.take().1.tree.is_none());
    assert!(app.temp.0.exists());
}
