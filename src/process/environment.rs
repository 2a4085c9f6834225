//! The words a worker is started with: command, environment, and what the protocol adds to them.

use super::daemon::DETACHED;
use super::init::VARIABLES;
use super::spec::Spec;
use crate::worker::Slot;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// Variables that speak to this process and would mislead a worker.
const NOT_INHERITED: &[&str] =
    &["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID"];

/// Which proxy has started a worker, with all that it has started: see [`super::RuntimeDir::instance`].
pub(super) const INSTANCE: &str = "PINGORA_UNIX_PROXY_INSTANCE";

/// Whether the proxy itself sets this variable of its workers.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with("PINGORA_UNIX_PROXY_") || name == "NODE_APP_INSTANCE"
}

/// Puts the socket and the slot into a word of the command or the environment.
pub(super) fn fill(text: &str, socket: &Path, slot: Slot) -> String {
    text.replace("{socket}", &socket.to_string_lossy()).replace("{slot}", &slot.to_string())
}

/// The whole environment of a worker: what we have, the user's, then ours.
pub(super) fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    spec: &Spec,
    (socket, instance): (&Path, &str),
    slot: Slot,
    preload: Option<(&Path, String)>,
) -> BTreeMap<OsString, OsString> {
    let sent = spec.given.sent.iter().map(|(name, value)| (name.into(), value.into()));
    let mut env: BTreeMap<OsString, OsString> = inherited
        .chain(sent)
        .filter(|(name, _)| !NOT_INHERITED.iter().chain(&VARIABLES).chain([&DETACHED]).any(|n| name == n))
        .collect();
    if let Some(user) = &spec.user {
        env.insert("HOME".into(), user.home.clone().into());
        env.insert("USER".into(), user.name.clone().into());
        env.insert("LOGNAME".into(), user.name.clone().into());
    }
    env.extend(spec.given.read.iter().map(|(name, value)| (name.into(), value.into())));
    for (name, value) in &spec.env {
        env.insert(name.into(), fill(value, socket, slot).into());
    }
    // What an outer proxy gave to us is not for our workers.
    env.remove(std::ffi::OsStr::new("PINGORA_UNIX_PROXY_WORKER"));
    env.insert("PINGORA_UNIX_PROXY_SOCKET".into(), socket.into());
    env.insert(INSTANCE.into(), instance.into());
    env.insert("NODE_APP_INSTANCE".into(), slot.to_string().into());
    if let Some((script, worker)) = preload {
        let mut options = env.remove(std::ffi::OsStr::new("NODE_OPTIONS")).unwrap_or_default();
        if !options.is_empty() {
            options.push(" ");
        }
        options.push(format!("--require {}", quote(&script.to_string_lossy())));
        env.insert("NODE_OPTIONS".into(), options);
        env.insert("PINGORA_UNIX_PROXY_WORKER".into(), worker.into());
    }
    env
}

/// As Node.js splits NODE_OPTIONS: at spaces, except within double quotes, where a backslash
/// takes the next character as it is.
fn quote(path: &str) -> String {
    if path.contains([' ', '"', '\\']) {
        format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(env: &[(&str, &str)]) -> Spec {
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Spec { env, ..Spec::of(&["node"], "/") }
    }

    #[test]
    fn what_is_configured_counts_before_files_and_these_before_what_was_sent() {
        let inherited = ["A", "B", "C", "D"].map(|name| (OsString::from(name), OsString::from("inherited")));
        let pairs = |names: &[&str], value: &str| names.iter().map(|n| (n.to_string(), value.to_owned())).collect();
        let mut spec = spec(&[("D", "{slot}")]);
        spec.given.sent = pairs(&["B", "C", "D", "WATCHDOG_USEC", "NODE_OPTIONS"], "sent{slot}");
        spec.given.read = pairs(&["C", "D"], "read{slot}");
        let preload = Some((Path::new("/p.cjs"), "{}".to_owned()));
        let env = environment(inherited.into_iter(), &spec, (Path::new("/s.sock"), "0"), Slot(3), preload);
        let get = |name: &str| env.get(std::ffi::OsStr::new(name)).map(|v| v.to_string_lossy().into_owned());
        let told = ["A", "B", "C", "D", "NODE_OPTIONS"].map(|name| get(name).unwrap_or_default());
        assert_eq!(told, ["inherited", "sent{slot}", "read{slot}", "3", "sent{slot} --require /p.cjs"]);
        assert_eq!(get("WATCHDOG_USEC"), None);
    }

    #[test]
    fn options_are_added_and_values_filled() {
        let inherited =
            [("NODE_OPTIONS", "--enable-source-maps"), ("NOTIFY_SOCKET", "/x"), (DETACHED, "1"), ("KEPT", "1")];
        let inherited = inherited.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let spec = spec(&[("SOCKET", "unix:{socket}"), ("N", "{slot}"), ("KEPT", "2")]);
        let preload = Some((Path::new("/run/a b/pre\"load.cjs"), "{}".to_owned()));
        let env = environment(inherited, &spec, (Path::new("/s.sock"), "0"), Slot(3), preload);
        let get = |name: &str| env.get(std::ffi::OsStr::new(name)).map(|v| v.to_string_lossy().into_owned());
        assert_eq!(get("NODE_OPTIONS").as_deref(), Some("--enable-source-maps --require \"/run/a b/pre\\\"load.cjs\""));
        assert_eq!(get("SOCKET").as_deref(), Some("unix:/s.sock"));
        assert_eq!(get("N").as_deref(), Some("3"));
        assert_eq!(get("KEPT").as_deref(), Some("2"));
        assert_eq!(get("NODE_APP_INSTANCE").as_deref(), Some("3"));
        assert_eq!((get("NOTIFY_SOCKET"), get(DETACHED)), (None, None));
    }
}
