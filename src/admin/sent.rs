//! The variables that a command sends with it for the workers to be started: `--update-env`.

use crate::process::is_ours;
use serde_json::{Map, Value};

/// Names and values.
pub(crate) type Variables = Vec<(String, String)>;

/// Bytes of all names and values.
const MOST: usize = 256 * 1024;

/// What tells of the terminal, the login or the directory of who asks, and nothing of the app.
const OF_THE_CALLER: &[&str] = &[
    "_",
    "COLORTERM",
    "COLUMNS",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "HOME",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LINES",
    "LOGNAME",
    "LS_COLORS",
    "MAIL",
    "MANAGERPID",
    "OLDPWD",
    "PWD",
    "RUNTIME_DIRECTORY",
    "SHELL",
    "SHLVL",
    "TERM",
    "TERM_PROGRAM",
    "TMUX",
    "TMUX_PANE",
    "USER",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];
const OF_THE_CALLER_BEGIN: &[&str] = &["SSH_", "SUDO_", "XDG_SESSION_", "npm_"];

/// Those of this process that are for an app. What is not UTF-8 is left out.
pub(crate) fn own() -> Variables {
    let all =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    all.filter(|(name, _)| is_for_apps(name)).collect()
}

fn is_for_apps(name: &str) -> bool {
    let of_the_caller =
        OF_THE_CALLER.contains(&name) || OF_THE_CALLER_BEGIN.iter().any(|begin| name.starts_with(begin));
    !of_the_caller && !is_ours(name) && is_name(name)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

/// What a request says under `env`, if it does.
pub(super) fn of(fields: &Map<String, Value>) -> Result<Option<Variables>, String> {
    let named = match fields.get("env") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(named)) => named,
        Some(_) => return Err("\"env\" is no object".to_owned()),
    };
    let mut variables = Variables::new();
    let mut size = 0;
    for (name, value) in named {
        let Value::String(value) = value else { return Err(format!("the value of {name:?} is no text")) };
        if !is_name(name) || is_ours(name) || value.contains('\0') {
            return Err(format!("{name:?} cannot be set"));
        }
        size += name.len() + value.len();
        variables.push((name.clone(), value.clone()));
    }
    match size > MOST {
        true => Err(format!("the variables have {size} bytes, at most {MOST} are taken")),
        false => Ok(Some(variables)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_the_callers_own_stays_with_the_caller() {
        for name in ["HOME", "SSH_AUTH_SOCK", "SUDO_USER", "_", "PINGORA_UNIX_PROXY_SOCKET", "NODE_APP_INSTANCE", ""] {
            assert!(!is_for_apps(name), "{name}");
        }
        for name in ["PATH", "NODE_ENV", "NODE_OPTIONS", "PORT", "LANG", "TZ", "API_KEY"] {
            assert!(is_for_apps(name), "{name}");
        }
    }

    #[test]
    fn what_a_request_says() {
        let of = |value: Value| super::of(value.as_object().unwrap());
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(of(json!({"env": null})), Ok(None));
        assert_eq!(of(json!({"env": {"A": "1"}})), Ok(Some(vec![("A".into(), "1".into())])));
        for wrong in [json!([]), json!({"A": 1}), json!({"": "1"}), json!({"A=": "1"}), json!({"A": "\0"})] {
            assert!(of(json!({"env": wrong})).is_err());
        }
        assert!(of(json!({"env": {"NODE_APP_INSTANCE": "1"}})).unwrap_err().contains("cannot be set"));
        assert!(of(json!({"env": {"A": "x".repeat(MOST)}})).unwrap_err().contains("at most"));
    }
}
