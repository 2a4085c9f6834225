//! The control API: HTTP/1.1 and JSON. See docs/operations.md.
//!
//! Every answer is a JSON object. One that is not 2xx has `error`, a sentence, and mostly `hint`, what to write
//! instead.

use super::http::{Answer, read_body};
use super::{Backend, Outcome, Refusal, Target, health, sent};
use crate::process::peer_pid;
use async_trait::async_trait;
use http::{Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a request's body; and where variables come with it, written as JSON.
const LARGEST_BODY: usize = 64 * 1024;
const LARGEST_WITH_ENV: usize = 512 * 1024;
/// After this time an operation is answered as not known; the supervisor's own limits are far below.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
const ROUTES: &str = "GET /v1/status, GET /v1/version, POST /v1/reload, POST /v1/apps/APP/scale, POST /v1/apps/APP/restart, \
     POST /v1/upgrade";
const SCALE_HINT: &str = r#"write {"to": 4}, {"to": "+1"}, {"to": "-1"} or {"to": "auto"}"#;
const RESTART_HINT: &str = r#"write {"env": {"NAME": "value"}}, or leave the body out"#;
const RELOAD_HINT: &str =
    r#"write {"app": "NAME", "conf": "/path/of/conf.yaml", "env": {"NAME": "value"}}, or leave them out"#;
const UPGRADE_HINT: &str =
    r#"write {"program": "/path/of/the/binary", "conf": "/path/of/conf.yaml"}, or leave them out"#;

/// Serves the API; whoever can open its socket may do everything, but for workers: [`Hands::objection`].
pub(crate) struct Api {
    hands: Arc<dyn Backend>,
}

impl Api {
    pub(crate) fn new(hands: Arc<dyn Backend>) -> Api {
        Api { hands }
    }

    pub(super) async fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Answer {
        let Some(route) = Route::of(path) else {
            return error(StatusCode::NOT_FOUND, format!("no route {method} {path}"), ROUTES);
        };
        if *method != route.method() {
            let text = format!("{path} takes {}, not {method}", route.method());
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, text, "");
            answer.allow = Some(if route.method() == Method::GET { "GET" } else { "POST" });
            return answer;
        }
        let fields = match fields(body, route.takes()) {
            Ok(fields) => fields,
            Err((text, hint)) => return error(StatusCode::BAD_REQUEST, text, &hint),
        };
        match route {
            Route::Status => json(StatusCode::OK, &self.hands.status()),
            Route::Version => {
                let version = json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": 1});
                json(StatusCode::OK, &version)
            }
            Route::Reload => self.reload(&fields).await,
            Route::Scale(app) => match (self.unknown(app), target(&fields)) {
                (Some(unknown), _) => unknown,
                (None, Err(text)) => error(StatusCode::BAD_REQUEST, text, SCALE_HINT),
                (None, Ok(to)) => operation(self.hands.scale(app, to)).await,
            },
            Route::Upgrade => match (place(&fields, "program"), place(&fields, "conf")) {
                (Err(text), _) | (_, Err(text)) => error(StatusCode::BAD_REQUEST, text, UPGRADE_HINT),
                (Ok(program), Ok(conf)) => operation(self.hands.upgrade(program, conf)).await,
            },
            Route::Restart(app) => match (self.unknown(app), sent::of(&fields)) {
                (Some(unknown), _) => unknown,
                (None, Err(text)) => error(StatusCode::BAD_REQUEST, text, RESTART_HINT),
                (None, Ok(env)) => operation(self.hands.restart(app, env)).await,
            },
        }
    }

    async fn reload(&self, fields: &Map<String, Value>) -> Answer {
        let app = match fields.get("app") {
            None | Some(Value::Null) => None,
            Some(Value::String(app)) => Some(app.clone()),
            Some(other) => return error(StatusCode::BAD_REQUEST, format!("\"app\" is {other}"), RELOAD_HINT),
        };
        if let Some(unknown) = app.as_deref().and_then(|app| self.unknown(app)) {
            return unknown;
        }
        match (place(fields, "conf"), sent::of(fields)) {
            (Err(text), _) | (_, Err(text)) => error(StatusCode::BAD_REQUEST, text, RELOAD_HINT),
            (Ok(_), Ok(Some(_))) if app.is_none() => {
                error(StatusCode::BAD_REQUEST, "\"env\" is for one app".to_owned(), "name it under \"app\"")
            }
            (Ok(conf), Ok(env)) => operation(self.hands.reload(app, conf, env)).await,
        }
    }

    /// The answer when there is no such app.
    fn unknown(&self, app: &str) -> Option<Answer> {
        let status = self.hands.status();
        if status.apps.iter().any(|known| known.name == app) {
            return None;
        }
        let names: Vec<&str> = status.apps.iter().map(|app| app.name.as_str()).collect();
        let near = names.iter().map(|name| (strsim::damerau_levenshtein(app, name), *name)).min();
        let hint = match near {
            // Only short words are near one another by more than chance.
            Some((distance, name)) if distance <= 2 && app.len() <= 64 => format!("did you mean {name:?}?"),
            _ => format!("there is {}", names.join(", ")),
        };
        Some(error(StatusCode::NOT_FOUND, format!("no app {app:?}"), &hint))
    }
}

#[async_trait]
impl ServeHttp for Api {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let stream = session.stream().and_then(|stream| stream.as_any().downcast_ref::<Stream>());
        let against = match stream {
            Some(stream) => self.hands.objection(peer_pid(stream)),
            None => Some("who asks is not known".to_owned()),
        };
        if let Some(why) = against {
            session.set_keepalive(None);
            return error(StatusCode::FORBIDDEN, why, "").into_response();
        }
        let head = session.req_header();
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        if health::Check::of(&path).is_some() {
            let query = head.uri.query().unwrap_or_default();
            let condition = self.hands.condition();
            let answer = health::answer(&condition, &method, &path, query, health::wants_json(&head.headers));
            session.set_keepalive(None);
            return answer.into_response();
        }
        let has_env = Route::of(&path).is_some_and(|route| route.takes().contains(&"env"));
        let most = if has_env { LARGEST_WITH_ENV } else { LARGEST_BODY };
        let answer = match read_body(session, most).await {
            Ok(body) => self.answer(&method, &path, &body).await,
            Err(status) => {
                let hint = format!("it has at most {} KiB", most / 1024);
                error(status, format!("the body could not be read: {status}"), &hint)
            }
        };
        answer.into_response()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'p> {
    Status,
    Version,
    Reload,
    Scale(&'p str),
    Restart(&'p str),
    Upgrade,
}

impl<'p> Route<'p> {
    fn of(path: &'p str) -> Option<Route<'p>> {
        let segments: Vec<&str> = path.strip_prefix("/v1/")?.splitn(5, '/').collect();
        match segments.as_slice() {
            ["status"] => Some(Route::Status),
            ["version"] => Some(Route::Version),
            ["reload"] => Some(Route::Reload),
            ["upgrade"] => Some(Route::Upgrade),
            ["apps", app, "scale"] => Some(Route::Scale(app)),
            ["apps", app, "restart"] => Some(Route::Restart(app)),
            _ => None,
        }
    }

    fn method(self) -> Method {
        match self {
            Route::Status | Route::Version => Method::GET,
            Route::Reload | Route::Scale(_) | Route::Restart(_) | Route::Upgrade => Method::POST,
        }
    }

    /// The keys of its body.
    fn takes(self) -> &'static [&'static str] {
        match self {
            Route::Scale(_) => &["to"],
            Route::Upgrade => &["program", "conf"],
            Route::Reload => &["app", "conf", "env"],
            Route::Restart(_) => &["env"],
            _ => &[],
        }
    }
}

/// A body is nothing or an object with known keys only; `Err` is error and hint.
fn fields(body: &[u8], known: &[&str]) -> Result<Map<String, Value>, (String, String)> {
    let hint = match known {
        [] => "leave the body out",
        ["to"] => SCALE_HINT,
        ["env"] => RESTART_HINT,
        ["app", ..] => RELOAD_HINT,
        _ => UPGRADE_HINT,
    };
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let fields = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return Err(("the body is no JSON object".to_owned(), hint.to_owned())),
        Err(why) => return Err((format!("the body is not JSON: {why}"), hint.to_owned())),
    };
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err((format!("unknown key {key:?}"), hint.to_owned())),
        None => Ok(fields),
    }
}

/// The absolute path under a key, if there is one.
fn place(fields: &Map<String, Value>, key: &str) -> Result<Option<PathBuf>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(path)) if path.starts_with('/') => Ok(Some(path.into())),
        Some(other) => Err(format!("{key:?} is {other}, no absolute path")),
    }
}

fn target(fields: &Map<String, Value>) -> Result<Target, String> {
    match fields.get("to") {
        None => Err("\"to\" is missing".to_owned()),
        Some(Value::String(text)) => Target::parse(text),
        // -1 is one less, as in the text: nobody wants less than no worker.
        Some(number @ Value::Number(_)) => Target::parse(&number.to_string()),
        Some(other) => Err(format!("\"to\" is {other}")),
    }
}

async fn operation(outcome: impl Future<Output = Outcome>) -> Answer {
    match tokio::time::timeout(LONGEST, outcome).await {
        Ok(Ok(message)) => json(StatusCode::OK, &json!({"ok": true, "message": message})),
        Ok(Err(Refusal::Failed(reason))) => error(StatusCode::INTERNAL_SERVER_ERROR, reason, ""),
        Ok(Err(Refusal::Unsupported(reason))) => error(StatusCode::NOT_IMPLEMENTED, reason, ""),
        Err(_) => error(StatusCode::GATEWAY_TIMEOUT, "it goes on; its outcome is not known yet".to_owned(), ""),
    }
}

fn error(status: StatusCode, text: String, hint: &str) -> Answer {
    let mut body = json!({"ok": false, "error": text});
    if !hint.is_empty() {
        body["hint"] = hint.into();
    }
    json(status, &body)
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    // Types with text keys only: nothing of them can fail to be written.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    Answer { status, kind: "application/json", body, allow: None }
}
