mod command_line;
mod hostile;
mod reference;
mod routes;
mod tls;

use super::schema::{ALL, Preset};
use super::*;
use std::collections::BTreeSet;

const FILE: &str = "conf.yaml";

fn on(machine: &dyn Machine, text: &str) -> Loaded {
    decode_text(Path::new(FILE), Path::new("/srv"), text, machine)
}

fn good(text: &str) -> Config {
    match on(&Paper { root: true }, text) {
        Ok((config, _)) => config,
        Err(errors) => panic!("{}\n{text}", lines(&errors)),
    }
}

fn lines(errors: &[Error]) -> String {
    errors.iter().map(|error| error.to_string() + "\n").collect()
}

fn errors_on(machine: &dyn Machine, text: &str) -> String {
    on(machine, text).err().map(|errors| lines(&errors)).unwrap_or_default()
}

fn errors(text: &str) -> String {
    errors_on(&Paper { root: true }, text)
}

fn warnings(text: &str) -> Vec<String> {
    on(&Paper { root: true }, text).expect("good").1.iter().map(Warning::to_string).collect()
}

/// One app, with `extra` in its map.
fn app(extra: &str) -> App {
    good(&format!("apps: {{chat: {{script: app.js{extra}}}}}")).apps.remove(0)
}

fn repository(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_script_is_enough() {
    let config = good("apps: {chat: {script: app.js}}");
    let [app] = config.apps.as_slice() else { panic!("{:?}", config.apps) };
    assert_eq!(app.name, "chat");
    assert_eq!(app.spec.command, ["node", "app.js"]);
    assert_eq!(app.spec.cwd, Path::new("/srv"));
    assert!(app.spec.preload);
    assert_eq!(app.policy, Policy::default());
    assert_eq!((&app.affinity, app.balance), (&Affinity::SocketIo, Balance::LeastLoaded));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.routes, [Route::to_app(None, "/", 0)]);
    assert_eq!(config.listeners, [Listener::plain("127.0.0.1:8000".parse().unwrap())]);
    assert_eq!(config.runtime_dir, Path::new("/run/pingora-unix-proxy"));
    assert_eq!(config.server.upgrade_sock, "/run/pingora-unix-proxy/upgrade.sock");
    assert_eq!(config.server.pid_file, "/run/pingora-unix-proxy/pingora-unix-proxy.pid");
}

#[test]
fn everything_arrives() {
    let config = good(
        r#"
server: {threads: 3, work_stealing: false, daemon: true, pid_file: run/p.pid}
listeners: [{address: "0.0.0.0:8000"}, {address: "[::1]:0"}]
runtime_dir: /run/x/
apps:
  chat:
    script: ./app.js
    args: --verbose two
    node_args: [--enable-source-maps]
    interpreter: node20
    cwd: chat/./current
    env: {A: 1.10, B: yes, C: true, D: "x y", E: "${HOME}/e", F: "$${HOME}", G: "${NONE:-a b}"}
    user: www-data
    group: 1234
    umask: 027
    instances: {min: 2, max: 2}
    affinity: {header: X-User}
    balance: round-robin
    wait_ready: true
    start_timeout: 5s
    stop_timeout: 0s
    drain_timeout: 1m 30s
    stop_signal: int
    backoff: {min: 1s, max: 1m}
    min_uptime: 3s
    response_timeout: 2h
  py:
    command: python3 -m uvicorn --uds {socket} app:app
    instances: ${COUNT:-7}
routes:
  - {host: Chat.Example.com, app: chat}
  - {host: "*.example.com", path: /api/v1, app: py}
  - {path: /, app: chat}
limits: {head_size: 8kib, head_timeout: 1s, keepalive_timeout: 2s, body_size: 1.5mb, body_timeout: 3s,
         tunnel_idle_timeout: 4h, connections: 5}
"#,
    );
    let seconds = Duration::from_secs;
    assert_eq!((config.server.threads, config.server.work_stealing, config.server.daemon), (3, false, true));
    assert_eq!(config.server.pid_file, "/srv/run/p.pid");
    assert_eq!(config.runtime_dir, Path::new("/run/x"));
    assert_eq!(config.listeners[1].address, "[::1]:0".parse().unwrap());
    let [chat, py] = config.apps.as_slice() else { panic!() };
    assert_eq!(chat.spec.command, ["node20", "--enable-source-maps", "./app.js", "--verbose", "two"]);
    assert_eq!(chat.spec.cwd, Path::new("/srv/chat/current"));
    let env: Vec<_> = chat.spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=1.10", "B=yes", "C=true", "D=x y", "E=/home/paper/e", "F=${HOME}", "G=a b"]);
    let user = chat.spec.user.clone().expect("a user");
    assert_eq!((user.uid, user.gid, user.name.as_str()), (33, 1234, "www-data"));
    assert_eq!(chat.spec.umask, Some(0o027));
    let policy = Policy {
        instances: 2,
        max_instances: 2,
        start_timeout: seconds(5),
        wait_ready: true,
        stop_timeout: seconds(0),
        drain_timeout: seconds(90),
        stop_signal: 2,
        backoff_min: seconds(1),
        backoff_max: seconds(60),
        min_uptime: seconds(3),
        ..Policy::default()
    };
    assert_eq!(chat.policy, policy);
    assert_eq!((&chat.affinity, chat.balance), (&Affinity::Header("x-user".into()), Balance::RoundRobin));
    assert_eq!(chat.response_timeout, seconds(7200));
    assert_eq!(py.spec.command, ["python3", "-m", "uvicorn", "--uds", "{socket}", "app:app"]);
    assert!(!py.spec.preload);
    assert_eq!(py.policy.instances, 7);
    let expected = [
        Route::to_app(Some("chat.example.com"), "/", 0),
        Route::to_app(Some("*.example.com"), "/api/v1", 1),
        Route::to_app(None, "/", 0),
    ];
    assert_eq!(config.routes, expected);
    let limits = Limits {
        head_bytes: 8192,
        head_timeout: seconds(1),
        keepalive_timeout: seconds(2),
        body_bytes: Some(1_500_000),
        body_timeout: seconds(3),
        body_rate: 240,
        tunnel_idle_timeout: seconds(4 * 3600),
        connections: 5,
    };
    assert_eq!(config.limits, limits);
}

#[test]
fn logs_arrive() {
    use crate::process::output::{FilePolicy, Format, Policy, Rotate};
    let logs = |text: &str| good(&format!("logs: {text}\napps: {{chat: {{script: app.js}}}}")).logs;
    assert_eq!(logs("{}"), Policy::default());
    let rotate = Rotate { size: Some(1_000_000), age: Some(Duration::from_secs(86_400)), keep: 3 };
    let files = FilePolicy { path: "/srv/logs/{app}-{slot}.{stream}.log".into(), rotate };
    let text = r#"{format: json, output: both, path: "logs/{app}-{slot}.{stream}.log", rotate: {size: 1mb, age: 1day, keep: 3}}"#;
    assert_eq!(logs(text), Policy { format: Format::Json, stdout: true, files: Some(files.clone()) });
    assert_eq!(files.directory(), Path::new("/srv/logs"));
    let files = FilePolicy { path: "/x.log".into(), rotate: Rotate { size: None, age: None, keep: 0 } };
    let text = "{output: file, path: /x.log, rotate: {size: none, age: none, keep: 0}}";
    assert_eq!(logs(text), Policy { format: Format::Text, stdout: false, files: Some(files.clone()) });
    assert_eq!(files.directory(), Path::new("/"));
    assert_eq!(logs("{output: off}"), Policy { stdout: false, ..Policy::default() });
}

#[test]
fn alarms_arrive() {
    let alarms = |text: &str| good(&format!("alarms: {text}\napps: {{chat: {{script: app.js}}}}")).alarms;
    assert_eq!(alarms("{}"), Alarms::default());
    let none = alarms("{memory: none, elu: none, lag: none, disk_free: none, queue_overflow: false, log_drops: false}");
    assert_eq!(
        (none.elu, none.lag, none.disk_free, none.queue_overflow, none.log_drops),
        (None, None, None, false, false)
    );
    let all = alarms(
        "{repeat: 10m, for: 5s, memory: 1gb, elu: 1, lag: 2s, disk_free: 1gib, exec: /usr/bin/alarm --now, \
         webhook: {url: \"https://example.com:8443/hook?x=1\", headers: {X-Token: abc}, timeout: 1s, retries: 2}}",
    );
    let seconds = Duration::from_secs;
    assert_eq!((all.repeat, all.hold, all.memory, all.elu), (seconds(600), seconds(5), Some(1_000_000_000), Some(1.0)));
    assert_eq!(
        (all.lag, all.disk_free, all.exec),
        (Some(seconds(2)), Some(1 << 30), vec!["/usr/bin/alarm".into(), "--now".into()])
    );
    let hook = all.webhook.expect("a webhook");
    assert_eq!(
        (hook.url.to_string().as_str(), hook.timeout, hook.retries),
        ("https://example.com:8443/hook?x=1", seconds(1), 2)
    );
    assert!(!format!("{hook:?}").contains("abc"), "a header may be a secret");
    let defaults = alarms("{webhook: {url: \"http://localhost/\", headers: {}, timeout: 5s, retries: 5}}");
    assert_eq!(defaults, alarms("{webhook: {url: \"http://localhost/\"}}"));
}

#[test]
fn a_written_default_changes_nothing() {
    let plain = format!("{:?}", good("apps: {chat: {script: app.js}}"));
    let mut seen = 0;
    for section in ALL {
        for key in section.keys {
            let Preset::Yaml(value) = key.default else { continue };
            let name = key.name;
            let text = match section.name {
                // Without a script beside it; see below.
                "apps.NAME.external" => continue,
                "" => format!("{name}: {value}\napps: {{chat: {{script: app.js}}}}"),
                "apps.NAME" => format!("apps: {{chat: {{script: app.js, {name}: {value}}}}}"),
                nested if nested.starts_with("apps.NAME.") => {
                    let map = nested.trim_start_matches("apps.NAME.");
                    format!("apps: {{chat: {{script: app.js, {map}: {{{name}: {value}}}}}}}")
                }
                "logs.rotate" => format!("logs: {{rotate: {{{name}: {value}}}}}\napps: {{chat: {{script: app.js}}}}"),
                "listeners" => format!(
                    "listeners: [{{address: \"127.0.0.1:8000\", {name}: {value}}}]\napps: {{chat: {{script: app.js}}}}"
                ),
                // Only of a listener with certificates; see tests/tls.rs.
                "tls" | "client_certificates" => continue,
                // Nothing without a URL, or a file; see below.
                "alarms.webhook" | "access_log" | "access_log.rotate" => continue,
                // Nothing by themselves; see `routes`.
                nested if nested.starts_with("routes.") => continue,
                "routes" => format!("routes: [{{{name}: {value}}}]\napps: {{chat: {{script: app.js}}}}"),
                other => format!("{other}: {{{name}: {value}}}\napps: {{chat: {{script: app.js}}}}"),
            };
            assert_eq!(format!("{:?}", good(&text)), plain, "{text}");
            seen += 1;
        }
    }
    assert!(seen > 25, "{seen}");
}

#[test]
fn a_written_default_of_the_access_log_changes_nothing() {
    let with = |more: &str| {
        let text = format!("access_log: {{file: a.log{more}}}\napps: {{chat: {{script: app.js}}}}");
        format!("{:?}", good(&text).access_log.expect("an access log"))
    };
    let plain = with("");
    for (section, written) in [(&schema::ACCESS_LOG, false), (&schema::ACCESS_LOG_ROTATE, true)] {
        for key in section.keys {
            let Preset::Yaml(value) = key.default else { continue };
            let more = format!("{}: {value}", key.name);
            let more = if written { format!(", rotate: {{{more}}}") } else { format!(", {more}") };
            assert_eq!(with(&more), plain, "{more}");
        }
    }
    let names = crate::gateway::Redact::DEFAULT.join(", ");
    assert_eq!(with(&format!(", redact: [{names}]")), plain);
    assert_eq!(with(", format: \"template $status\""), with(", format: \"$status\""));
    assert!(good("access_log: {file: off}\napps: {chat: {script: app.js}}").access_log.is_none());
    let documented = repository("docs/configuration.md");
    assert!(crate::gateway::Redact::DEFAULT.iter().all(|name| documented.contains(&format!("`{name}`"))));
    let variables = crate::gateway::AccessFormat::variables();
    let missing: Vec<_> = variables.filter(|name| !documented.contains(&format!("`${name}`"))).collect();
    assert!(missing.is_empty(), "docs/configuration.md lacks {missing:?}");
}

#[test]
fn external_workers() {
    let app = |inside: &str| {
        good(&format!("apps: {{chat: {{external: {{directory: /run/shared/chat{inside}}}}}}}")).apps.remove(0)
    };
    let plain = app("");
    assert_eq!(plain, app(", workers: 16, users: [0]"));
    let external = plain.spec.external.expect("external");
    assert_eq!((external.directory.as_path(), external.users), (Path::new("/run/shared/chat"), vec![0]));
    assert!(plain.policy.external && plain.spec.preload && plain.spec.command.is_empty());
    assert_eq!(plain.policy.most(), 16);
    // Numbers need no name; the same user once.
    let users = app(", users: [node, 1001, 4711], workers: 2").spec.external.expect("external").users;
    assert_eq!(users, [1001, 4711]);
}

#[test]
fn words_from_elsewhere_are_told_apart() {
    for section in ALL {
        for (word, instead) in section.elsewhere {
            let text = match section.name {
                "" => format!("{word}: 1\napps: {{chat: {{script: app.js}}}}"),
                "apps.NAME" => format!("apps: {{chat: {{script: app.js, {word}: 1}}}}"),
                nested if nested.starts_with("apps.NAME.") => {
                    let map = nested.trim_start_matches("apps.NAME.");
                    format!("apps: {{chat: {{script: app.js, {map}: {{{word}: 1}}}}}}")
                }
                "logs.rotate" => format!("logs: {{rotate: {{{word}: 1}}}}\napps: {{chat: {{script: app.js}}}}"),
                "alarms.webhook" => format!("alarms: {{webhook: {{{word}: 1}}}}\napps: {{chat: {{script: app.js}}}}"),
                nested if nested.starts_with("routes.") => {
                    let map = nested.trim_start_matches("routes.");
                    format!("routes: [{{{map}: {{{word}: 1}}}}]\napps: {{chat: {{script: app.js}}}}")
                }
                "access_log.rotate" => {
                    format!("access_log: {{file: a, rotate: {{{word}: 1}}}}\napps: {{chat: {{script: app.js}}}}")
                }
                "tls" => tls::listener_tls(&format!("{{{word}: 1}}")),
                "certificates" | "client_certificates" => {
                    tls::listener_tls(&format!("{{{}: [{{{word}: 1}}]}}", section.name))
                }
                "proxy_protocol" => {
                    format!("listeners: [{{proxy_protocol: {{{word}: 1}}}}]\napps: {{chat: {{script: app.js}}}}")
                }
                "listeners" | "routes" => {
                    format!("{}: [{{{word}: 1}}]\napps: {{chat: {{script: app.js}}}}", section.name)
                }
                other => format!("{other}: {{{word}: 1}}\napps: {{chat: {{script: app.js}}}}"),
            };
            let errors = errors(&text);
            let expected = match instead {
                schema::Instead::Later => "not supported yet".to_owned(),
                schema::Instead::Useless(why) | schema::Instead::Write(why) => (*why).to_owned(),
            };
            assert!(errors.contains(&expected), "{text}\n{errors}");
        }
    }
}

#[test]
fn other_runtimes_of_javascript_are_told_how_they_get_their_socket() {
    for (app, says) in [
        ("command: [bun, app.ts]", "Bun.serve({unix: process.env.SOCKET"),
        ("command: [bun, app.ts], preload: true", "Bun does not load the script of Node.js"),
        ("script: app.js, interpreter: deno, node_args: run", "Deno.serve({path:"),
        ("script: app.js, interpreter: deno, preload: true", "Deno does not load the script of Node.js"),
    ] {
        let text = errors(&format!("apps: {{a: {{{app}}}}}"));
        assert!(text.contains(says) && !text.contains("write preload: true"), "{text}");
    }
}

#[test]
fn programs_of_node_get_the_preload() {
    let preload = |command: &str| good(&format!("apps: {{a: {{command: {command}}}}}")).apps.remove(0).spec.preload;
    for command in ["node app.js", "npm start", "/usr/bin/node22 app.js", "npx tsx app.ts", "yarn start", "nodejs a.js"]
    {
        assert!(preload(command), "{command}");
    }
    assert!(!preload("[bun, app.ts, \"{socket}\"]"));
    assert!(app(", interpreter: tsx").spec.preload);
    assert!(!app(", preload: false, env: {SOCKET: \"{socket}\"}").spec.preload);
    assert!(good("apps: {a: {command: ./start, preload: true}}").apps[0].spec.preload);
}

#[test]
fn users_need_root() {
    let text = "apps: {chat: {script: app.js, user: www-data}}";
    let refused = errors_on(&Paper { root: false }, text);
    assert!(refused.starts_with("conf.yaml:1:37: apps.chat.user: only root can"), "{refused}");
    let own = on(&Paper { root: false }, "apps: {chat: {script: app.js, user: paper}}").expect("itself").0;
    assert_eq!(own.apps[0].spec.user, None);
    let nobody = errors("apps: {chat: {script: app.js, user: nobodi, group: nogrup}}");
    assert_eq!(nobody.lines().count(), 2, "{nobody}");
    assert!(errors("apps: {chat: {script: app.js, group: www-data}}").contains("needs a user"));
    assert_eq!(app(", user: 33").spec.user.expect("by number").name, "www-data");
}

#[test]
fn anchors_and_merges_work() {
    let config = good(
        "apps:\n  a: &a {script: app.js, instances: 3, env: &e {X: 1}}\n  b: {<<: *a, instances: 2}\n  c: {script: c.js, env: *e}\n\
         routes: [{app: a}, {path: /b, app: b}, {path: /c, app: c}]",
    );
    let [a, b, c] = config.apps.as_slice() else { panic!() };
    assert_eq!((a.policy.instances, b.policy.instances), (3, 2));
    assert_eq!((&b.spec, &c.spec.env), (&a.spec, &a.spec.env));
    // A mistake that an alias repeats stands in one place and is told once.
    let errors =
        errors("apps:\n  a: &a {script: app.js, min_uptime: 5}\n  b: *a\nroutes: [{app: a}, {path: /b, app: b}]");
    assert_eq!(errors.lines().filter(|line| line.contains("2:38")).count(), 2, "{errors}");
}

#[test]
fn the_care_for_workers_is_read() {
    let policy =
        app(", instances: {min: 2, max: 8}, surge: 2, min_ready: 3s, drain_window: 4s, heartbeat_timeout: 6s, \
         crash_loop: {max: 3, retry: 9s}, health_check: {path: /healthz, expect: 204}, max_memory_restart: 512mib, \
         scaling: {target: 50, max_sessions: 100, down_window: 1m}, max_requests: 1000, max_lifetime: 1day, \
         rlimits: {nofile: 4096, core: unlimited}, port: 3000, ports: {9090: each, 9091: off}");
    let (policy, spec) = (policy.policy, policy.spec);
    assert_eq!((policy.instances, policy.most(), policy.surge, policy.min_ready.as_secs()), (2, 8, 2, 3));
    assert_eq!((policy.crashes.max, policy.crashes.window.as_secs(), policy.crashes.retry.as_secs()), (3, 60, 9));
    assert_eq!((policy.health.path.as_deref(), policy.health.expect), (Some("/healthz"), (204, 204)));
    assert_eq!((policy.health.heartbeat_timeout.as_secs(), policy.drain_window.as_secs()), (6, 4));
    assert_eq!((policy.scaling.target, policy.scaling.max_sessions), (50, Some(100)));
    assert_eq!((policy.limits.memory, policy.limits.requests), (Some(512 << 20), Some(1000)));
    assert_eq!((spec.rlimits.nofile, spec.rlimits.core), (Some(4096), Some(u64::MAX)));
    assert_eq!((spec.ports.main, spec.ports.further.len()), (Some(3000), 2));
    for (wrong, says) in [
        ("health_check: {path: healthz}", "must be a path"),
        ("health_check: {expect: 700}", "must be a status"),
        ("health_check: /healthz", "write health_check: {path: /healthz}"),
        ("scaling: {min: 2}", "write instances: {min: 2, max: 8}"),
        ("rlimits: {nofile: 5}", "from 64"),
        ("port: 70000", "from 1 to 65535"),
        ("ports: 9090", "write ports: {9090: each}"),
        ("ports: {http: one}", "\"http\" is no port"),
        ("ports: {9090: tcp}", "one, each or off"),
        ("port: 3000, ports: {3000: one}", "is the app's public port"),
        ("preload: false, args: \"{socket}\", port: 3000", "needs preload"),
    ] {
        let text = errors(&format!("apps: {{chat: {{script: app.js, {wrong}}}}}"));
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn oddities_are_warned_of() {
    let unrouted = warnings("apps: {a: {script: a.js}, b: {script: b.js}}\nroutes: [{app: a}]");
    assert_eq!(unrouted.len(), 1, "{unrouted:?}");
    assert!(unrouted[0].starts_with("conf.yaml:1:27: app b has no route"), "{unrouted:?}");
    let port = warnings("apps: {a: {command: 'python3 a.py {socket} {port}'}}");
    assert!(port.is_empty() || port[0].contains("{port}"), "{port:?}");
    let both = warnings("apps: {a: {script: a.js}}\nlisteners: [{address: '0.0.0.0:80'}, {address: '[::]:80'}]");
    assert_eq!(both.len(), 1, "{both:?}");
}

#[test]
#[ignore = "prints the rows of docs/configuration.md"]
fn print_rows() {
    for section in ALL {
        println!("\n## {}\n", section.name);
        for key in section.keys {
            println!("{} | |", schema::row(key));
        }
    }
}

#[test]
fn a_barred_way_is_found() {
    use std::os::unix::fs::PermissionsExt;
    let dir = std::env::temp_dir().join(format!("pup-barrier-{}", std::process::id()));
    let inner = dir.join("closed/inner");
    std::fs::create_dir_all(&inner).unwrap();
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let stranger =
        crate::process::spec::Identity { uid: 54_321, gid: 54_321, name: "stranger".into(), home: "/".into() };
    [&dir, &dir.join("closed"), &inner].into_iter().for_each(|path| set(path, 0o755));
    assert_eq!(Here.barrier(&inner, &stranger), None);
    set(&dir.join("closed"), 0o750);
    let at = dir.canonicalize().unwrap().join("closed");
    assert_eq!(Here.barrier(&inner, &stranger), Some(machine::Barrier { at, has_list: false }));
    std::fs::remove_dir_all(&dir).unwrap();
}
