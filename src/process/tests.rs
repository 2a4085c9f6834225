//! With real processes and directories.

use super::output::{Stream, make_pipe};
use super::spec::{Identity, Spec};
use super::*;
use crate::worker::{Incarnation, Slot, WorkerId};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

/// A directory that goes with the test.
pub(super) struct Temp(pub(super) PathBuf);

impl Temp {
    pub(super) fn new() -> Temp {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pup-pr-{}-{n}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Temp(dir)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn nobody() -> Identity {
    Identity { uid: 65534, gid: 65534, name: "nobody".into(), home: "/nonexistent".into() }
}

fn app_user(app: &str, user: Option<Identity>) -> Vec<AppUser> {
    vec![AppUser { app: app.into(), user }]
}

fn worker(incarnation: u32) -> WorkerId {
    WorkerId { app: "chat".into(), slot: Slot(0), incarnation: Incarnation(incarnation) }
}

fn spec(command: &[&str]) -> Spec {
    Spec {
        command: command.iter().map(|word| word.to_string()).collect(),
        cwd: "/".into(),
        env: vec![],
        preload: false,
        user: None,
        umask: None,
        rlimits: Default::default(),
        ports: Default::default(),
        external: None,
        env_file: Vec::new(),
        given: Default::default(),
    }
}

/// Starts a process and returns it with what it writes to stdout until it is gone.
async fn run(spec: &Spec) -> Result<(Exit, String), Error> {
    let temp = Temp::new();
    let (stdout, mut out) = make_pipe(&temp.0.join("out"), None)?;
    let (stderr, _err) = make_pipe(&temp.0.join("err"), None)?;
    let (id, socket) = (worker(1), Path::new("/run/s.sock"));
    let process = spawn(Job { id: &id, spec, socket, instance: "0", preload: None, stdout, stderr })?;
    let exit = timeout(Duration::from_secs(20), process.wait()).await.unwrap()?;
    let mut text = String::new();
    timeout(Duration::from_secs(20), out.read_to_string(&mut text)).await.unwrap().unwrap();
    Ok((exit, text))
}

async fn sh(script: &str) -> (Exit, String) {
    run(&spec(&["sh", "-c", script])).await.unwrap()
}

#[tokio::test]
async fn words_are_filled_and_no_shell_sees_them() {
    let mut spec = spec(&["sh", "-c", "echo \"$0 $1 $2\"; echo $WHERE $PINGORA_UNIX_PROXY_SOCKET; pwd", "{socket}"]);
    spec.command.extend(["$HOME; `id`".into(), "{slot}".into()]);
    spec.env = vec![("WHERE".into(), "unix:{socket}".into())];
    spec.cwd = "/usr".into();
    let (exit, text) = run(&spec).await.unwrap();
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(text, "/run/s.sock $HOME; `id` 0\nunix:/run/s.sock /run/s.sock\n/usr\n");
}

#[tokio::test]
async fn ends_are_described_for_people() {
    for (script, expected) in [
        ("exit 0", "exited with code 0"),
        ("exit 7", "exited with code 7"),
        ("kill -9 $$", "killed by SIGKILL"),
        ("ulimit -c 0; kill -SEGV $$", "killed by SIGSEGV"),
    ] {
        assert_eq!(sh(script).await.0.to_string(), expected);
    }
    assert_eq!(Exit::Signal { number: 11, core: true }.to_string(), "killed by SIGSEGV (core dumped)");
}

#[tokio::test]
async fn a_worker_inherits_nothing_it_should_not() {
    let file = fs::File::open("/dev/null").unwrap();
    // Not closed by exec unless the spawn sees to it.
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let (_, text) = sh("ls /proc/$$/fd; readlink /proc/$$/fd/0; grep -E 'SigBlk|SigIgn' /proc/self/status").await;
    let words: Vec<&str> = text.split_whitespace().collect();
    // 10 and above are the shell's own.
    let fds: Vec<&&str> = words.iter().take_while(|w| w.parse::<u32>().is_ok()).filter(|w| w.len() < 2).collect();
    assert_eq!(fds, [&"0", &"1", &"2"], "{text}");
    assert!(text.contains("/dev/null"));
    // 32 and 33 belong to the C library, which does not let anybody change them.
    let masks: Vec<u64> =
        words.iter().filter_map(|w| u64::from_str_radix(w, 16).ok().filter(|_| w.len() == 16)).collect();
    assert_eq!(masks.iter().map(|mask| mask & !(0b11 << 31)).collect::<Vec<_>>(), [0, 0], "{text}");
}

#[tokio::test]
async fn a_group_dies_with_its_leader() {
    let temp = Temp::new();
    let file = temp.0.join("pid");
    let script = format!("sleep 300 & echo $! > {0}.new; mv {0}.new {0}; exit 3", file.display());
    let (exit, _) = sh(&script).await;
    assert_eq!(exit, Exit::Code(3));
    let child = fs::read_to_string(&file).unwrap();
    gone(child.trim()).await;
}

/// Waits until a process that is not our child is gone, or waits for its own parent.
async fn gone(pid: &str) {
    let stat = format!("/proc/{pid}/stat");
    let alive = || fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z "));
    let wait = async {
        while alive() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("process {pid} is left"));
}

#[tokio::test]
async fn signals_reach_the_group_and_never_a_stranger() {
    let temp = Temp::new();
    let (stdout, mut out) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (stderr, _err) = make_pipe(&temp.0.join("err"), None).unwrap();
    let id = worker(1);
    let spec = spec(&["sh", "-c", "trap 'echo caught; exit 5' TERM; echo up; while :; do sleep 0.01; done"]);
    let socket = Path::new("/x");
    let process = spawn(Job { id: &id, spec: &spec, socket, instance: "0", preload: None, stdout, stderr }).unwrap();
    let mut text = [0; 3];
    out.read_exact(&mut text).await.unwrap();
    process.signal_group(15).unwrap();
    assert_eq!(timeout(Duration::from_secs(10), process.wait()).await.unwrap().unwrap(), Exit::Code(5));
    // Its number may be another's by now.
    process.signal_group(9).unwrap();
    process.kill_group().unwrap();
    let unheard_of = process.signal_group(4711);
    assert!(unheard_of.is_ok(), "nothing is sent to a process that is gone");
}

#[tokio::test]
async fn a_process_that_is_not_our_child_is_watched_too() {
    let temp = Temp::new();
    let (stdout, mut out) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (stderr, _err) = make_pipe(&temp.0.join("err"), None).unwrap();
    let (id, socket) = (worker(1), Path::new("/x"));
    let spec = spec(&["sh", "-c", "setsid sh -c 'echo $$; exec sleep 300' & wait"]);
    let parent = spawn(Job { id: &id, spec: &spec, socket, instance: "0", preload: None, stdout, stderr }).unwrap();
    let mut pid = String::new();
    while !pid.ends_with('\n') {
        pid.push(char::from(timeout(Duration::from_secs(10), out.read_u8()).await.unwrap().unwrap()));
    }
    parent.kill_group().unwrap();
    parent.wait().await.unwrap();
    // It has left the group, so it lives on.
    let process = Process::open(pid.trim().parse().unwrap()).unwrap();
    process.kill_group().unwrap();
    assert_eq!(timeout(Duration::from_secs(10), process.wait()).await.unwrap().unwrap(), Exit::Unknown);
    gone(pid.trim()).await;
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let temp = Temp::new();
    fs::write(temp.0.join("plain"), "no program").unwrap();
    fs::write(temp.0.join("broken"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(temp.0.join("broken"), fs::Permissions::from_mode(0o755)).unwrap();
    let error = async |command: &[&str], cwd: &Path| {
        let mut spec = spec(command);
        spec.cwd = cwd.into();
        spec.env = vec![("PATH".into(), "/first:/second".into())];
        run(&spec).await.unwrap_err().to_string()
    };
    let here = temp.0.display();
    assert_eq!(error(&["nodde"], &temp.0).await, "program \"nodde\" not found; looked for /first/nodde, /second/nodde");
    assert_eq!(error(&["./app"], &temp.0).await, format!("program \"./app\" not found; looked for {here}/./app"));
    assert_eq!(error(&["./plain"], &temp.0).await, format!("{here}/./plain is not an executable file"));
    assert!(error(&["./broken"], &temp.0).await.starts_with(&format!("starting {here}/./broken: No such file")));
    assert_eq!(
        error(&["sh"], &temp.0.join("none")).await,
        format!("cannot use working directory {here}/none: No such file or directory (os error 2)")
    );
    assert_eq!(error(&[], &temp.0).await, "the command is empty");
}

#[tokio::test]
async fn a_worker_runs_as_its_user() {
    if !is_root() {
        return;
    }
    let mut spec = spec(&["sh", "-c", "id -u; id -g; id -G; umask; echo $HOME $USER"]);
    spec.user = Some(nobody());
    spec.umask = Some(0o027);
    let (exit, text) = run(&spec).await.unwrap();
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(text, "65534\n65534\n65534\n0027\n/nonexistent nobody\n");

    // The directory is entered as the user, too.
    let temp = Temp::new();
    fs::set_permissions(&temp.0, fs::Permissions::from_mode(0o700)).unwrap();
    spec.cwd = temp.0.clone();
    let denied = run(&spec).await.unwrap_err().to_string();
    assert!(denied.starts_with("cannot use working directory") && denied.contains("Permission denied"), "{denied}");
}

#[test]
fn a_directory_is_furnished_and_leaves_nothing() {
    let temp = Temp::new();
    let path = temp.0.join("a/b/run");
    let dir = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    assert_eq!(dir.socket(&worker(17)), path.join("workers/chat.0.17.sock"));
    assert_eq!(dir.log_pipe(&worker(17), Stream::Err), path.join("logs/chat.0.17.err"));
    let preload = dir.write_preload("// script").unwrap();
    assert_eq!(fs::read_to_string(preload).unwrap(), "// script");
    drop(dir);
    assert!(temp.names().is_empty());
}

#[test]
fn a_directory_that_was_there_stays() {
    let temp = Temp::new();
    let path = temp.0.join("run");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    drop(RuntimeDir::open(&path, app_user("chat", None)).unwrap());
    assert_eq!(temp.names(), ["run"]);
    assert!(fs::read_dir(&path).unwrap().next().is_none());
}

#[test]
fn a_second_proxy_is_refused_and_changes_nothing() {
    let temp = Temp::new();
    let path = temp.0.join("run");
    let first = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(first.control_socket()).unwrap();
    let refused = RuntimeDir::open(&path, app_user("chat", None)).unwrap_err().to_string();
    let pid = std::process::id();
    assert!(refused.contains(&format!("is in use by another proxy, pid {pid}; stop that one")), "{refused}");
    assert!(first.control_socket().exists());
    drop(first);
    assert!(temp.names().is_empty());
}

#[test]
fn whether_a_directory_is_in_use_is_seen_without_a_trace() {
    let temp = Temp::new();
    let path = temp.0.join("run");
    assert!(RuntimeDir::in_use(&path).is_none());
    assert!(temp.names().is_empty(), "nothing is made");
    let dir = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    let told = RuntimeDir::in_use(&path).unwrap().to_string();
    assert!(told.contains(&format!("in use by another proxy, pid {}", std::process::id())), "{told}");
    dir.crash();
    assert!(RuntimeDir::in_use(&path).is_none(), "what the dead leave");
}

#[test]
fn a_directory_is_reclaimed_from_the_dead_alone() {
    let temp = Temp::new();
    let path = temp.0.join("made").join("run");
    assert!(RuntimeDir::reclaim(&path).unwrap().is_none(), "nothing is made");
    assert_eq!(RuntimeDir::holder(&path), None);
    let dir = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    assert_eq!(RuntimeDir::holder(&path), Some(Some(std::process::id())));
    assert!(matches!(RuntimeDir::reclaim(&path), Err(Error::InUse { .. })));
    dir.crash();
    assert!(path.join("lock").exists());
    // A process that another test has just forked may hold the lock's descriptor until it runs its own program.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let guard = loop {
        match RuntimeDir::reclaim(&path) {
            Err(Error::InUse { pid: None, .. }) if std::time::Instant::now() < until => std::thread::yield_now(),
            other => break other.unwrap().unwrap(),
        }
    };
    // Whoever comes meanwhile waits for its end, and begins anew.
    let next = std::thread::spawn({
        let path = path.clone();
        move || RuntimeDir::lock(&path).map(|dir| dir.path().exists())
    });
    std::thread::sleep(Duration::from_millis(100));
    assert!(!next.is_finished());
    drop(guard);
    assert!(next.join().unwrap().unwrap());
    assert!(!temp.0.join("made").exists(), "with the directories that were made");
}

#[tokio::test]
async fn a_group_is_found_without_its_leader_but_never_a_stranger() {
    let temp = Temp::new();
    let socket = temp.0.join("chat.0.1.sock");
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "sleep 100 & read line"]).env("PINGORA_UNIX_PROXY_SOCKET", &socket);
    command.stdin(std::process::Stdio::piped()).process_group(0);
    let mut leader = command.spawn().unwrap();
    let (pid, uid) = (leader.id(), rustix::process::geteuid().as_raw());
    let known = Some((pid, usage::start_time(pid).unwrap()));
    assert!(Group::find(known, &socket, uid).unwrap().lives());
    // Also one that nobody could write down any more. Its environment shows a moment after it has begun.
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while Group::find(None, &socket, uid).is_none() {
        assert!(std::time::Instant::now() < until, "its environment names it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The shell has started its child, of which the group is to consist.
    while super::exit::members(pid).count() < 2 {
        assert!(std::time::Instant::now() < until, "there is no child");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    leader.kill().unwrap();
    leader.wait().unwrap();
    assert!(Group::find(known, &temp.0.join("chat.0.2.sock"), uid).is_none());
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let group = loop {
        if let Some(group) = Group::find(known, &socket, uid) {
            break group;
        }
        assert!(std::time::Instant::now() < until, "it is not found without its leader");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    group.kill().unwrap();
    while group.lives() && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!group.lives());
    assert!(Group::find(known, &socket, uid).is_none());
}

#[test]
fn a_directory_that_others_could_change_is_refused() {
    let temp = Temp::new();
    let path = temp.0.join("run");
    let refused = |what: &str| {
        let error = RuntimeDir::open(&path, app_user("chat", None)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    fs::create_dir(&path).unwrap();
    for mode in [0o770, 0o777, 0o702] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        refused("can be written by others");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        refused("belongs to user 65534");
    }
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("/tmp", &path).unwrap();
    refused("is a symbolic link");
    assert_eq!(temp.names(), ["run"]);
}

#[test]
fn what_is_no_file_or_directory_in_there_is_refused() {
    let temp = Temp::new();
    let path = temp.0.join("run");
    let refused = |name: &str, what: &str| {
        let error = RuntimeDir::open(&path, app_user("chat", None)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(what), "{error}");
        let _ = fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)));
    };
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    nix::unistd::mkfifo(&path.join("lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // And nobody waits for what comes out of it.
    refused("lock", "is not a file");
    fs::remove_file(path.join("lock")).unwrap();
    let elsewhere = temp.0.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    drop(std::os::unix::net::UnixListener::bind(elsewhere.join("dead.sock")).unwrap());
    std::os::unix::fs::symlink(&elsewhere, path.join("workers")).unwrap();
    refused("workers", "is not a directory");
    assert!(elsewhere.join("dead.sock").exists());
}

#[test]
fn what_a_dead_proxy_left_is_removed_and_what_lives_is_not() {
    let temp = Temp::new();
    let path = temp.0.join("x/run");
    let dir = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    let (dead, alive) = (dir.socket(&worker(3)), dir.socket(&worker(5)));
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let _alive = std::os::unix::net::UnixListener::bind(&alive).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pipe = dir.log_pipe(&worker(3), Stream::Out);
    drop(runtime.block_on(async { make_pipe(&pipe, None).unwrap() }));
    let own = path.join("workers/not-ours.txt");
    fs::write(&own, "").unwrap();
    assert!(dead.exists() && pipe.exists());
    // As if the process had been killed: the lock goes, the rest stays.
    dir.crash();

    let dir = RuntimeDir::open(&path, app_user("chat", None)).unwrap();
    assert!(!dead.exists() && !pipe.exists() && alive.exists() && own.exists());
    assert_eq!(dir.first_incarnation("chat"), Incarnation(6));
    assert_eq!(dir.first_incarnation("other"), Incarnation(1));
    fs::remove_file(own).unwrap();
    drop(_alive);
    drop(dir);
    // The one that crashed had made the parents.
    assert!(temp.names().is_empty());
}

#[test]
fn what_a_worker_leaves_is_removed() {
    let temp = Temp::new();
    let dir = RuntimeDir::open(&temp.0.join("run"), app_user("chat", None)).unwrap();
    let socket = dir.socket(&worker(1));
    let second = socket.with_file_name("chat.0.1-3000.sock");
    let neighbour = dir.socket(&worker(12));
    for path in [&socket, &second, &neighbour] {
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    }
    dir.remove_worker(&worker(1)).unwrap();
    assert!(!socket.exists() && !second.exists() && neighbour.exists());
}

#[test]
fn names_and_paths_are_checked_before_anything_is_made() {
    let temp = Temp::new();
    let long = temp.0.join("x".repeat(80));
    let error = RuntimeDir::open(&long, app_user("chat", None)).unwrap_err().to_string();
    assert!(error.contains("a socket address holds 107; set a shorter runtime_dir"), "{error}");
    for name in ["", "../x", "a.b", &"n".repeat(65)] {
        let error = RuntimeDir::open(&temp.0.join("run"), app_user(name, None)).unwrap_err();
        assert!(matches!(error, Error::AppName { .. }), "{error}");
    }
    assert!(temp.names().is_empty());
}

#[test]
fn an_app_of_another_user_gets_a_directory_of_its_own() {
    if !is_root() {
        return;
    }
    let temp = Temp::new();
    let path = temp.0.join("run");
    let dir = RuntimeDir::open(&path, app_user("chat", Some(nobody()))).unwrap();
    let socket = dir.socket(&worker(1));
    assert_eq!(socket, path.join("workers/chat/chat.0.1.sock"));
    let meta = fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (65534, 0o700));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o711);
    assert!(dir.is_shared());
    drop(dir);
    assert!(temp.names().is_empty());
}
