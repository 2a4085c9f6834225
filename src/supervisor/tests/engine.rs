//! What traffic is told of a worker's Engine.IO.

use super::killed::written;
use super::takeover::One;
use super::*;
use crate::pool::{Lease, QueuePolicy};

/// Passes for Engine.IO.
const ENGINE: &str = "exports.Server = class {
    constructor() { this.clientsCount = 0; }
    generateId() { return 'base64id'; }
    handshake() { this.clientsCount += 100; }
    attach(server) { server.removeAllListeners('request'); }
};";

fn app(modules: &std::path::Path) -> (Spec, Policy) {
    let script = format!(
        "const engine = new (require('{}/server.js').Server)(), server = require('http').createServer();
        engine.attach(server, {{ path: '/chat' }});
        process.on('SIGUSR2', () => {{ engine.handshake(); engine.attach(server, {{ path: '/more/' }}); }});
        server.listen(3000);",
        modules.display()
    );
    (node(&script), policy())
}

fn paths(one: &One) -> Option<Vec<String>> {
    one.control.status().apps[0].workers[0].carried.member()?.engine.paths()
}

async fn serves(one: &One, wanted: &[&str]) {
    let wait = async {
        while paths(one).is_none_or(|paths| paths != wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never {wanted:?}: {:?}", paths(one)));
}

/// How many requests of sessions get in at once although the worker has as much as it may.
fn let_in(one: &One, path: &[u8]) -> usize {
    let mut settings = (**one.pool.settings()).clone();
    settings.queue = QueuePolicy { max_concurrency: Some(1), ..settings.queue };
    one.pool.reconfigure(settings);
    let full = one.pool.select(Wanted::Any, Use::Request, &[]).unwrap();
    let sid = format!("0123456789abcdefg{}", full.member().tag.unwrap());
    let wanted = Wanted::Sid { sid: sid.as_bytes(), path };
    let leases: Vec<Lease> = (0..1000).map_while(|_| one.pool.select(wanted, Use::Parked, &[])).collect();
    leases.len()
}

#[tokio::test]
async fn sessions_are_believed_where_the_worker_serves_them_and_as_many_as_it_has() {
    let (base, modules) = (base_dir(), base_dir());
    let lib = modules.join("engine.io/lib");
    std::fs::create_dir_all(&lib).unwrap();
    std::fs::write(lib.join("server.js"), ENGINE).unwrap();
    let old = One::start(&base, app(&lib));
    let pid = old.ready(1).await[0].unwrap();
    // From its first request on.
    assert_eq!(paths(&old), Some(vec!["/chat/".to_owned()]));
    assert_eq!(let_in(&old, b"/page"), 0);
    let few = let_in(&old, b"/chat/");
    assert!((1..1000).contains(&few), "{few}");

    kill(pid, rustix::process::Signal::USR2);
    serves(&old, &["/chat/", "/more/"]).await;
    let many = let_in(&old, b"/more/");
    assert!(many > few && many < 1000, "{few} and then {many}");

    // The next proxy knows it before it is told again, sessions and all.
    written(&base, |text| text.contains("\"state\":\"Ready\"") && text.contains("/chat/")).await;
    kill(pid, rustix::process::Signal::STOP);
    old.crash().await;
    let new = One::start(&base, app(&lib));
    assert_eq!(new.ready(1).await, [Some(pid)]);
    assert_eq!(let_in(&new, b"/page"), 0);
    assert!((1..1000).contains(&let_in(&new, b"/chat/")));
    kill(pid, rustix::process::Signal::CONT);
    serves(&new, &["/chat/", "/more/"]).await;
    assert_eq!((let_in(&new, b"/more/"), let_in(&new, b"/page")), (many, 0));
    new.end(base).await;
    std::fs::remove_dir_all(&modules).unwrap();
}
