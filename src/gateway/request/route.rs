//! Which app serves a request: by host, then by path.

/// One rule of the routing table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Lower case, no port. `*.example.com` matches one or more labels before it; `None` every host.
    pub(crate) host: Option<String>,
    /// Begins with `/` and matches whole segments.
    pub(crate) path: String,
    /// Index of the app.
    pub(crate) app: usize,
}

/// The routing table, sorted once so that the first match is the best: exact host before wildcard
/// before any, a longer wildcard or path before a shorter one.
pub(crate) struct Routes(Vec<Route>);

impl Routes {
    pub(crate) fn new(mut routes: Vec<Route>) -> Routes {
        let host_rank = |route: &Route| match &route.host {
            Some(host) if !host.starts_with('*') => (0, 0),
            Some(host) => (1, usize::MAX - host.len()),
            None => (2, 0),
        };
        routes.sort_by_key(|route| (host_rank(route), usize::MAX - route.path.len()));
        Routes(routes)
    }

    /// The app for a `Host` (with or without a port) and a request target.
    pub(crate) fn find(&self, host: &[u8], target: &[u8]) -> Option<usize> {
        let host = without_port(host);
        let path = path_of(target);
        let matches = |route: &&Route| host_matches(route.host.as_deref(), host) && path_matches(&route.path, path);
        self.0.iter().find(matches).map(|route| route.app)
    }
}

fn host_matches(pattern: Option<&str>, host: &[u8]) -> bool {
    match pattern {
        None => true,
        Some(pattern) => match pattern.strip_prefix('*') {
            // `suffix` begins with the dot.
            Some(suffix) => {
                host.len() > suffix.len() && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            }
            None => host.eq_ignore_ascii_case(pattern.as_bytes()),
        },
    }
}

fn path_matches(prefix: &str, path: &[u8]) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix).as_bytes();
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// The path of an origin-form or absolute-form target; `/` where there is none.
pub(super) fn path_of(target: &[u8]) -> &[u8] {
    let end = memchr::memchr2(b'?', b'#', target).unwrap_or(target.len());
    let target = &target[..end];
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = memchr::memmem::find(target, b"://") else { return b"/" };
    let rest = &target[scheme + 3..];
    memchr::memchr(b'/', rest).map_or(b"/", |at| &rest[at..])
}

fn without_port(host: &[u8]) -> &[u8] {
    // An IPv6 literal keeps its colons inside the brackets.
    let from = memchr::memrchr(b']', host).unwrap_or(0);
    let end = memchr::memchr(b':', &host[from..]).map_or(host.len(), |at| from + at);
    // A fully qualified name may end in a dot.
    host[..end].strip_suffix(b".").unwrap_or(&host[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rules: &[(&str, &str)]) -> Routes {
        let route = |(app, (host, path)): (usize, &(&str, &str))| Route {
            host: (!host.is_empty()).then(|| host.to_string()),
            path: path.to_string(),
            app,
        };
        Routes::new(rules.iter().enumerate().map(route).collect())
    }

    #[test]
    fn the_best_match_wins_whatever_the_order() {
        let routes = table(&[
            ("", "/"),
            ("*.example.com", "/"),
            ("chat.example.com", "/"),
            ("chat.example.com", "/api"),
            ("*.eu.example.com", "/"),
            ("", "/api/v2/"),
        ]);
        for (host, target, app) in [
            ("other.org", "/x", 0),
            ("other.org", "/api/v2/users?x=/", 5),
            ("other.org", "/api/v2", 5),
            ("other.org", "/api/v20", 0),
            ("a.example.com", "/", 1),
            ("a.b.example.com:8000", "/", 1),
            ("example.com", "/", 0),
            ("a.eu.example.com", "/", 4),
            ("CHAT.example.com:443", "/", 2),
            ("chat.example.com.", "/api", 3),
            ("chat.example.com", "/api?x", 3),
            ("chat.example.com", "/apis", 2),
            ("chat.example.com", "http://chat.example.com/api/x", 3),
            ("chat.example.com", "http://chat.example.com", 2),
            ("[::1]:8000", "/", 0),
            ("", "*", 0),
        ] {
            assert_eq!(routes.find(host.as_bytes(), target.as_bytes()), Some(app), "{host} {target}");
        }
    }

    #[test]
    fn no_rule_no_app() {
        let routes = table(&[("a.org", "/x")]);
        assert_eq!(routes.find(b"a.org", b"/"), None);
        assert_eq!(routes.find(b"b.org", b"/x"), None);
        assert_eq!(routes.find(b"[::1]:80", b"/x"), None);
    }
}
