//! What a route asks for and what it does. Which one serves a request stands in [`super::route_table`].

use super::path;
use bytes::Bytes;
use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// One rule of the routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// What the access log calls it; the table that it stands in gives it this name.
    pub(crate) name: String,
    /// Lower case, no port. `*.example.com` matches one or more labels before it; `None` every host.
    pub(crate) host: Option<String>,
    pub(crate) path: PathRule,
    /// In capitals, as clients send them; empty for every method. One with GET has HEAD, too.
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<HeaderRule>,
    /// Looked into before the action, for GET and HEAD.
    pub(crate) files: Option<Files>,
    pub(crate) action: Action,
    pub(crate) rewrite: Option<Rewrite>,
    pub(crate) limits: RouteLimits,
}

/// Matched on the normal form of a request's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathRule {
    /// Begins with `/`; matches whole path segments (`/a` matches `/a` and `/a/b`, not `/ab`).
    Prefix(String),
    Exact(String),
    /// Matches anywhere in the path unless it says `^` or `$`.
    Pattern(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeaderRule {
    /// Lower case.
    pub(crate) name: String,
    pub(crate) value: HeaderValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderValue {
    Is(String),
    Present,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Index of the app.
    App(usize),
    Answer(StaticAnswer),
    Redirect(Redirect),
    /// 503, to be tried again after so many seconds.
    Maintenance(u64),
    /// There is nothing but the files.
    FilesOnly,
}

/// An answer that is the same for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StaticAnswer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Bytes,
    /// Seconds.
    pub(crate) retry_after: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub(crate) status: u16,
    /// Begins with `/`, `http://` or `https://`; may hold [`PLACEHOLDERS`].
    pub(crate) to: String,
}

/// What stands in the target of a redirect for parts of the request: its host without the port, its path in the normal
/// form, what of that follows the route's own path, and its query with the `?`.
pub(crate) const PLACEHOLDERS: [&str; 4] = ["{host}", "{path}", "{rest}", "{query}"];

/// A directory whose files are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// Absolute.
    pub(crate) directory: PathBuf,
    /// What is served for a directory.
    pub(crate) index: String,
    pub(crate) cache_control: Option<String>,
}

/// How the worker gets the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewrite {
    /// Taken off; whole segments, without a slash at the end. Empty for nothing.
    pub(crate) strip: String,
    /// Put in front, of the same form.
    pub(crate) add: String,
}

/// What a route sets otherwise than `limits` and its app do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteLimits {
    /// `Some(None)` for no limit.
    pub(crate) body_bytes: Option<Option<u64>>,
    pub(crate) body_timeout: Option<Duration>,
    pub(crate) body_rate: Option<u64>,
    pub(crate) response_timeout: Option<Duration>,
}

impl Route {
    /// Everything below a path to an app.
    pub(crate) fn to_app(host: Option<&str>, path: &str, app: usize) -> Route {
        Route {
            name: String::new(),
            host: host.map(str::to_owned),
            path: PathRule::Prefix(path.to_owned()),
            methods: Vec::new(),
            headers: Vec::new(),
            files: None,
            action: Action::App(app),
            rewrite: None,
            limits: RouteLimits::default(),
        }
    }

    /// What it asks for, in one line: methods, host and path (`= PATH` for a whole path, `~ PATTERN`), names of headers.
    pub(super) fn described(&self) -> String {
        let mut name = self.methods.join(",");
        if !name.is_empty() {
            name.push(' ');
        }
        name.push_str(self.host.as_deref().unwrap_or_default());
        let (sign, path) = match &self.path {
            PathRule::Prefix(path) => ("", path),
            PathRule::Exact(path) => ("= ", path),
            PathRule::Pattern(pattern) => ("~ ", pattern),
        };
        if !sign.is_empty() && self.host.is_some() {
            name.push(' ');
        }
        name.push_str(sign);
        name.push_str(path);
        for header in &self.headers {
            name.push(' ');
            name.push_str(&header.name);
        }
        name
    }

    /// Whether a request fares the same by one route as by the other.
    pub(super) fn does_the_same(&self, other: &Route) -> bool {
        if matches!(self.action, Action::Redirect(_)) && self.path != other.path {
            // What follows the route's path differs.
            return false;
        }
        (&self.files, &self.action, &self.rewrite, &self.limits)
            == (&other.files, &other.action, &other.rewrite, &other.limits)
    }

    /// Nothing has to be asked but the app.
    pub(in crate::gateway) fn only_asks_the_app(&self) -> bool {
        self.files.is_none() && matches!(self.action, Action::App(_))
    }

    /// The target as the worker gets it, where that is another one. `target` is the client's.
    pub(in crate::gateway) fn rewritten(&self, target: &[u8]) -> Option<Rewritten<'_>> {
        let rewrite = self.rewrite.as_ref()?;
        if target == b"*" {
            return None;
        }
        let (path, rest) = path::split(target);
        let normal = path::normal(path);
        let (left, prefix) = rewrite.stripped(&normal);
        let mut to = Vec::with_capacity(rewrite.add.len() + left.len() + rest.len() + 1);
        to.extend_from_slice(rewrite.add.as_bytes());
        to.extend_from_slice(left);
        if to.is_empty() {
            to.push(b'/');
        }
        let path_len = to.len();
        to.extend_from_slice(rest);
        Some(Rewritten { target: to, path_len, prefix })
    }

    /// The path as a worker would get it, in its normal form.
    pub(in crate::gateway) fn path_below<'a>(&self, target: &'a [u8]) -> Cow<'a, [u8]> {
        match self.rewritten(target) {
            Some(Rewritten { mut target, path_len, .. }) => {
                target.truncate(path_len);
                Cow::Owned(target)
            }
            None => path::normal(path::path_of(target)),
        }
    }
}

/// A target as the worker gets it: in its normal form, of which a part was taken off or put in front.
pub(in crate::gateway) struct Rewritten<'r> {
    pub(in crate::gateway) target: Vec<u8>,
    path_len: usize,
    /// What was taken off, as `X-Forwarded-Prefix` tells; empty for nothing.
    pub(in crate::gateway) prefix: &'r str,
}

impl Rewrite {
    /// What is left of a path, and what was taken off it.
    fn stripped<'a>(&self, normal: &'a [u8]) -> (&'a [u8], &str) {
        match normal.strip_prefix(self.strip.as_bytes()) {
            Some(left) if left.is_empty() || left.starts_with(b"/") => (left, &self.strip),
            _ => (normal, ""),
        }
    }
}

impl Redirect {
    /// Where a request is sent, as the value of `Location`. `host` has no port, `own_path` is the route's.
    pub(in crate::gateway) fn location(&self, host: &[u8], target: &[u8], own_path: &PathRule) -> Vec<u8> {
        let (path, query) = path::split(target);
        let path = path::normal(path);
        let rest = match own_path {
            PathRule::Prefix(own) => path.strip_prefix(own.trim_end_matches('/').as_bytes()).unwrap_or(&path),
            PathRule::Exact(_) => b"",
            PathRule::Pattern(_) => &path,
        };
        let mut location = Vec::with_capacity(self.to.len() + target.len());
        let mut left = self.to.as_str();
        while let Some(at) = left.find('{') {
            location.extend_from_slice(&left.as_bytes()[..at]);
            left = &left[at..];
            let Some(name) = PLACEHOLDERS.iter().find(|name| left.starts_with(**name)) else {
                location.push(b'{');
                left = &left[1..];
                continue;
            };
            left = &left[name.len()..];
            match *name {
                "{host}" => location.extend_from_slice(host),
                "{path}" => location.extend_from_slice(&path::in_location(&path)),
                "{rest}" => location.extend_from_slice(&path::in_location(rest)),
                _ => location.extend_from_slice(&path::in_location(query)),
            }
        }
        location.extend_from_slice(left.as_bytes());
        if location.starts_with(b"//") {
            // It would name another host.
            let slashes = location.iter().take_while(|b| **b == b'/').count();
            location.drain(..slashes - 1);
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_route_is_described_by_what_it_asks_for() {
        let chat = || Route::to_app(Some("chat.example.com"), "/api", 0);
        let header = HeaderRule { name: "x-beta".into(), value: HeaderValue::Present };
        for (route, name) in [
            (Route::to_app(None, "/", 0), "/"),
            (chat(), "chat.example.com/api"),
            (Route { path: PathRule::Exact("/a".into()), ..chat() }, "chat.example.com = /a"),
            (Route { host: None, path: PathRule::Pattern("^/v".into()), ..chat() }, "~ ^/v"),
            (Route { methods: vec!["PUT".into(), "POST".into()], ..chat() }, "PUT,POST chat.example.com/api"),
            (Route { headers: vec![header], ..chat() }, "chat.example.com/api x-beta"),
        ] {
            assert_eq!(route.described(), name);
        }
    }

    #[test]
    fn a_prefix_is_taken_off_and_put_in_front() {
        for (strip, add, target, expected, prefix) in [
            ("/api", "", "/api/users?x=1", "/users?x=1", "/api"),
            ("/api", "", "/api", "/", "/api"),
            ("/api", "", "/api?x", "/?x", "/api"),
            ("/api", "", "/api/", "/", "/api"),
            ("/api", "", "/apis", "/apis", ""),
            ("/api", "", "//api//users", "/users", "/api"),
            ("/api", "", "/%61pi/a%2fb", "/a%2Fb", "/api"),
            ("/api", "", "/x/../api/y", "/y", "/api"),
            ("/api", "", "http://h/api/x?y", "/x?y", "/api"),
            ("/api", "/v1", "/api/x", "/v1/x", "/api"),
            ("/api", "/v1", "/api", "/v1", "/api"),
            ("", "/v1", "/x", "/v1/x", ""),
            ("/a/b", "", "/a/b/socket.io/?EIO=4&sid=x", "/socket.io/?EIO=4&sid=x", "/a/b"),
        ] {
            let rewrite = Some(Rewrite { strip: strip.into(), add: add.into() });
            let route = Route { rewrite, ..Route::to_app(None, "/", 0) };
            let rewritten = route.rewritten(target.as_bytes()).unwrap();
            assert_eq!((text(&rewritten.target).as_str(), rewritten.prefix), (expected, prefix), "{target}");
            let path = expected.split('?').next().unwrap();
            assert_eq!(text(&route.path_below(target.as_bytes())), path);
            assert!(route.rewritten(b"*").is_none());
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_is_told_to() {
        for (to, own, target, expected) in [
            ("https://{host}{path}{query}", "/", "/a/b?c=d", "https://a.example/a/b?c=d"),
            ("/new{rest}{query}", "/old", "/old/x?y", "/new/x?y"),
            ("/new{rest}", "/old", "/old", "/new"),
            ("/new{rest}", "/old/", "/old/x", "/new/x"),
            ("/{what}", "/", "/x", "/{what}"),
            // None of these leads to another host.
            ("/{path}", "/", "//evil.example", "/evil.example"),
            ("{path}", "/", "/%2fevil.example", "/%2Fevil.example"),
            ("/{rest}", "/a", "/a//evil.example", "/evil.example"),
            ("/{path}", "/", "/\\evil.example", "/%5Cevil.example"),
        ] {
            let redirect = Redirect { status: 302, to: to.into() };
            let location = redirect.location(b"a.example", target.as_bytes(), &PathRule::Prefix(own.into()));
            assert_eq!(text(&location), expected, "{to} {target}");
        }
    }
}
