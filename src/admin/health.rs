//! `/livez`, `/readyz` and `/startupz`: what an orchestrator or a load balancer asks, in the manner of Kubernetes.

use super::Backend;
use super::http::Answer;
use async_trait::async_trait;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Response, StatusCode};
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// The supervisor's loop turns each second. Standing still for this long, it hangs.
pub(crate) const HUNG: Duration = Duration::from_secs(10);

/// How the proxy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    /// Since the supervisor's loop turned last.
    pub(crate) since_beat: Duration,
    /// Why clients are not served although they should be.
    pub(crate) unserved: Option<String>,
    /// Why the runtime directory is not whole, so that no worker can be started or replaced.
    pub(crate) directory: Option<String>,
    /// It was asked to stop, or another process takes over.
    pub(crate) stopping: bool,
    pub(crate) apps: Vec<AppCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppCondition {
    pub(crate) name: String,
    /// Workers that take requests, and all that it has.
    pub(crate) ready: usize,
    pub(crate) workers: usize,
    /// It had a ready worker at some time.
    pub(crate) was_ready: bool,
    /// Why it has no ready worker; empty where nothing is known.
    pub(crate) reason: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Live,
    Ready,
    Startup,
}

impl Check {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Check::Live => "/livez",
            Check::Ready => "/readyz",
            Check::Startup => "/startupz",
        }
    }

    pub(super) fn of(path: &str) -> Option<Check> {
        [Check::Live, Check::Ready, Check::Startup].into_iter().find(|check| check.path() == path)
    }
}

impl AppCondition {
    fn line(&self) -> String {
        let workers = if self.workers == 1 { "worker" } else { "workers" };
        let why = if self.reason.is_empty() || self.ready > 0 { String::new() } else { format!(" ({})", self.reason) };
        format!("{}: {} of {} {workers} ready{why}", self.name, self.ready, self.workers)
    }
}

impl Condition {
    /// Why the answer is no; nothing if it is yes. `app` asks for one app only.
    pub(crate) fn against(&self, check: Check, app: Option<&str>) -> Vec<String> {
        let asked = |known: &&AppCondition| app.is_none_or(|app| known.name == app);
        let apps = self.apps.iter().filter(asked);
        let mut reasons = Vec::new();
        if check != Check::Startup {
            reasons.extend(self.unserved.clone());
        }
        match check {
            Check::Live if self.since_beat >= HUNG => {
                let seconds = self.since_beat.as_secs();
                reasons.push(format!("the supervisor has stood still for {seconds} s"));
            }
            Check::Live => {}
            Check::Ready => {
                if self.stopping {
                    reasons.push("the proxy stops".to_owned());
                }
                reasons.extend(self.directory.clone());
                reasons.extend(apps.filter(|app| app.ready == 0).map(AppCondition::line));
            }
            Check::Startup => reasons.extend(apps.filter(|app| !app.was_ready).map(AppCondition::line)),
        }
        reasons
    }
}

/// What a question's query says.
#[derive(Debug, Default)]
struct Query<'q> {
    app: Option<&'q str>,
    verbose: bool,
}

impl<'q> Query<'q> {
    fn of(text: &'q str) -> Query<'q> {
        let mut query = Query::default();
        for part in text.split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                // Names of apps need no escapes.
                "app" => query.app = Some(value),
                "verbose" => query.verbose = !matches!(value, "0" | "false"),
                _ => {}
            }
        }
        query
    }
}

/// The answer to a question. Only GET and HEAD ask.
pub(super) fn answer(condition: &Condition, method: &Method, path: &str, query: &str, as_json: bool) -> Answer {
    let plain = |status, text: String| Answer { status, kind: PLAIN, body: (text + "\n").into_bytes(), allow: None };
    let Some(check) = Check::of(path) else {
        return plain(StatusCode::NOT_FOUND, "there are /livez, /readyz and /startupz".to_owned());
    };
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Answer { allow: Some("GET, HEAD"), ..plain(StatusCode::METHOD_NOT_ALLOWED, "use GET".to_owned()) };
    }
    let query = Query::of(query);
    if let Some(app) = query.app
        && !condition.apps.iter().any(|known| known.name == app)
    {
        return plain(StatusCode::NOT_FOUND, "there is no such app".to_owned());
    }
    let reasons = condition.against(check, query.app);
    let ok = reasons.is_empty();
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if as_json {
        let app = |app: &AppCondition| {
            json!({"name": app.name, "ready": app.ready, "workers": app.workers, "was_ready": app.was_ready,
                "reason": app.reason})
        };
        let apps: Vec<_> = condition.apps.iter().map(app).collect();
        let body = json!({"ok": ok, "reasons": reasons, "stopping": condition.stopping, "apps": apps}).to_string();
        return Answer { status, kind: JSON, body: body.into_bytes(), allow: None };
    }
    let mut lines = if ok { vec!["ok".to_owned()] } else { reasons };
    if query.verbose {
        let sign = |app: &AppCondition| if app.ready > 0 { '+' } else { '-' };
        lines.extend(condition.apps.iter().map(|app| format!("[{}] {}", sign(app), app.line())));
        lines.push(format!("[{}] supervisor", if condition.since_beat < HUNG { '+' } else { '-' }));
        if condition.stopping {
            lines.push("[-] stopping".to_owned());
        }
    }
    plain(status, lines.join("\n"))
}

pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(JSON)))
}

/// Serves health to everyone who can reach its address.
pub(crate) struct Health {
    hands: Arc<dyn Backend>,
}

impl Health {
    pub(crate) fn new(hands: Arc<dyn Backend>) -> Health {
        Health { hands }
    }
}

#[async_trait]
impl ServeHttp for Health {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let head = session.req_header();
        let is_head = head.method == Method::HEAD;
        let query = head.uri.query().unwrap_or_default();
        let condition = self.hands.condition();
        let answer = answer(&condition, &head.method, head.uri.path(), query, wants_json(&head.headers));
        // Whatever came behind the head is not read.
        session.set_keepalive(None);
        let mut response = answer.into_response();
        if is_head {
            response.body_mut().clear();
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str, ready: usize, was_ready: bool) -> AppCondition {
        let reason = if ready == 0 { "exited with code 1".to_owned() } else { String::new() };
        AppCondition { name: name.to_owned(), ready, workers: 2, was_ready, reason }
    }

    fn ask(condition: &Condition, path: &str, query: &str) -> (u16, String) {
        let answer = answer(condition, &Method::GET, path, query, false);
        (answer.status.as_u16(), String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn each_question_has_its_own_answer() {
        let mut now = Condition { apps: vec![app("chat", 0, false), app("api", 2, true)], ..Condition::default() };
        assert_eq!(ask(&now, "/livez", ""), (200, "ok\n".to_owned()));
        let (status, text) = ask(&now, "/readyz", "");
        assert_eq!((status, text.as_str()), (503, "chat: 0 of 2 workers ready (exited with code 1)\n"));
        assert_eq!(ask(&now, "/readyz", "app=api").0, 200);
        assert_eq!(ask(&now, "/readyz", "app=nobody").0, 404);
        assert_eq!(ask(&now, "/startupz", "").0, 503);
        now.apps[0].was_ready = true;
        assert_eq!(ask(&now, "/startupz", "").0, 200);
        now.apps[0].ready = 1;
        assert_eq!(ask(&now, "/readyz", "").0, 200);
        now.stopping = true;
        assert_eq!(ask(&now, "/readyz", ""), (503, "the proxy stops\n".to_owned()));
        assert_eq!(ask(&now, "/readyz", "app=api").0, 503);
        assert_eq!(ask(&now, "/livez", "").0, 200);
        now.since_beat = Duration::from_secs(12);
        assert_eq!(ask(&now, "/livez", ""), (503, "the supervisor has stood still for 12 s\n".to_owned()));
        now =
            Condition { unserved: Some("not served".into()), apps: vec![app("api", 2, true)], ..Condition::default() };
        assert_eq!(ask(&now, "/livez", ""), (503, "not served\n".to_owned()));
        assert_eq!((ask(&now, "/readyz", "").0, ask(&now, "/startupz", "").0), (503, 200));
        now =
            Condition { directory: Some("not whole".into()), apps: vec![app("api", 2, true)], ..Condition::default() };
        assert_eq!(ask(&now, "/readyz", ""), (503, "not whole\n".to_owned()));
        assert_eq!((ask(&now, "/livez", "").0, ask(&now, "/startupz", "").0), (200, 200));
        assert_eq!(ask(&now, "/health", "").0, 404);
    }

    #[test]
    fn details_on_request() {
        let now = Condition { apps: vec![app("chat", 0, true), app("api", 2, true)], ..Condition::default() };
        let (_, text) = ask(&now, "/readyz", "verbose");
        assert!(text.contains("\n[-] chat: 0 of 2") && text.contains("\n[+] api: 2 of 2 workers ready\n"), "{text}");
        let json = answer(&now, &Method::GET, "/readyz", "", true);
        let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
        assert_eq!((json["ok"].as_bool(), json["apps"][1]["ready"].as_u64()), (Some(false), Some(2)));
        let post = answer(&now, &Method::POST, "/livez", "", false);
        assert_eq!((post.status.as_u16(), post.allow), (405, Some("GET, HEAD")));
    }
}
