//! What clients meet: listeners, routes, limits.

use super::key::Instead::{Useless, Write};
use super::key::Kind::{Duration, DurationOrNone, Flag, Integer, List, Map, Other, Size};
use super::key::Preset::{Required, Words, Yaml};
use super::key::{Section, key};

pub(in crate::config) const LISTENER: Section = Section {
    name: "listeners",
    keys: &[
        key("address", Other("IP:PORT"), Required),
        key("h2c", Flag, Yaml("false")),
        key("proxy_protocol", Map, Words("connections begin with a request")),
        key("tls", Other("map, or self-signed"), Words("plain HTTP")),
        key("redirect", Other("https, or none"), Yaml("none")),
    ],
    elsewhere: &[
        ("http2", Write("write h2c: true for HTTP/2 without TLS; with TLS it is on, or write tls: {http2: false}")),
        ("ssl", Write("write tls: {certificates: [{cert: chain.pem, key: key.pem}]}")),
        ("certificates", Write("write it under tls")),
        ("hsts", Write("write it under tls")),
        ("accept-proxy", Write("write proxy_protocol: {from: [10.0.0.0/8]}")),
        ("accept_proxy", Write("write proxy_protocol: {from: [10.0.0.0/8]}")),
        ("port", Write("write the port into address: \"0.0.0.0:8000\"")),
        ("host", Write("write address: \"127.0.0.1:8000\"")),
        ("listen", Write("write address: \"0.0.0.0:8000\"")),
        ("bind", Write("write address: \"0.0.0.0:8000\"")),
        ("addr", Write("write address: \"0.0.0.0:8000\"")),
    ],
};

pub(in crate::config) const PROXY_PROTOCOL: Section = Section {
    name: "proxy_protocol",
    keys: &[key("from", List, Required)],
    elsewhere: &[
        ("allow", Write("write from")),
        ("trusted", Write("write from")),
        ("timeout", Useless("a header must come within 5 seconds")),
        ("version", Useless("both versions are read")),
    ],
};

pub(in crate::config) const CLIENTS: Section = Section {
    name: "clients",
    keys: &[
        key("connections", Integer(1, 10_000_000, "none"), Yaml("none")),
        key("requests", Other("NUMBER/s, NUMBER/m or NUMBER/h, or none"), Yaml("none")),
        key("burst", Integer(1, 1_000_000, ""), Words("as many as requests names")),
    ],
    elsewhere: &[
        ("limit_conn", Write("write connections")),
        ("max_connections", Write("write connections")),
        ("rate", Write("write requests: 100/s")),
        ("limit_req", Write("write requests: 100/s")),
        ("average", Write("write requests: 100/s")),
        ("trusted", Write("write trusted_proxies at the left margin")),
        ("exempt", Write("write trusted_proxies at the left margin")),
    ],
};

pub(in crate::config) const REQUEST_HEADERS: Section = Section {
    name: "request_headers",
    keys: &[
        key("underscores", Flag, Yaml("false")),
        key("forwarded", Flag, Yaml("false")),
        key("request_id", Other("trusted, any or none"), Yaml("trusted")),
        key("traceparent", Other("pass or begin"), Yaml("pass")),
    ],
    elsewhere: &[
        ("underscores_in_headers", Write("write underscores")),
        ("x_request_id", Write("write request_id")),
        ("trace", Write("write traceparent")),
    ],
};

pub(in crate::config) const TLS: Section = Section {
    name: "tls",
    keys: &[
        key("certificates", Other("list, or self-signed"), Required),
        key("min_version", Other("1.2 or 1.3"), Yaml("1.2")),
        key("client_certificates", Other("map, or list of maps"), Words("none are asked for")),
        key("http2", Flag, Yaml("true")),
        key("handshake_timeout", Duration(100, 600_000), Yaml("10s")),
        key("hsts", DurationOrNone(1000, 100 * 31_557_600_000), Yaml("none")),
    ],
    elsewhere: &[
        ("certificate", Write("write certificates: [{cert: chain.pem, key: key.pem}]")),
        ("cert", Write("write certificates: [{cert: chain.pem, key: key.pem}]")),
        ("key", Write("write certificates: [{cert: chain.pem, key: key.pem}]")),
        ("ssl_certificate", Write("write certificates: [{cert: chain.pem, key: key.pem}]")),
        ("ssl_certificate_key", Write("write certificates: [{cert: chain.pem, key: key.pem}]")),
        ("protocols", Write("write min_version")),
        ("ssl_protocols", Write("write min_version")),
        ("alpn", Write("write http2: false for HTTP/1.1 alone")),
        ("ssl_handshake_timeout", Write("write handshake_timeout")),
        ("ssl_client_certificate", Write("write client_certificates: {ca: ca.pem, mode: required}")),
        ("ssl_verify_client", Write("write client_certificates: {ca: ca.pem, mode: required}")),
        ("client_ca", Write("write client_certificates: {ca: ca.pem, mode: required}")),
        ("mtls", Write("write client_certificates: {ca: ca.pem, mode: required}")),
        ("ciphers", Useless("rustls speaks strong ciphers only, and the client chooses among them")),
        ("ssl_ciphers", Useless("rustls speaks strong ciphers only, and the client chooses among them")),
        ("session_tickets", Useless("sessions are resumed by tickets, whose keys change every 6 hours")),
        ("self_signed", Write("write tls: self-signed")),
        ("strict_transport_security", Write("write hsts: 365d")),
    ],
};

pub(in crate::config) const CERTIFICATE: Section = Section {
    name: "certificates",
    keys: &[key("cert", Other("file"), Required), key("key", Other("file"), Required)],
    elsewhere: &[
        ("chain", Write("write the chain into the file of cert, after the certificate")),
        ("fullchain", Write("write cert: fullchain.pem")),
        ("certificate", Write("write cert")),
        ("private_key", Write("write key")),
        ("privkey", Write("write key: privkey.pem")),
    ],
};

pub(in crate::config) const CLIENT_CERTIFICATES: Section = Section {
    name: "client_certificates",
    keys: &[
        key("ca", Other("file"), Required),
        key("mode", Other("required or optional"), Yaml("required")),
        key("crl", Other("file"), Words("nothing is revoked")),
        key("hosts", List, Words("every host that no other entry names")),
    ],
    elsewhere: &[
        ("ca_file", Write("write ca")),
        ("verify", Write("write mode: required, or optional")),
        ("host", Write("write hosts: [admin.example.com]")),
        ("crl_file", Write("write crl")),
    ],
};

pub(in crate::config) const ROUTE: Section = Section {
    name: "routes",
    keys: &[
        key("host", Other("host name or *.DOMAIN"), Words("any host")),
        key("path", Other("path"), Yaml("/")),
        key("exact", Other("path"), Words("none; instead of path")),
        key("regex", Other("regular expression"), Words("none; instead of path")),
        key("methods", Other("method, or list of methods"), Words("every method")),
        key("headers", Map, Yaml("{}")),
        key("app", Other("name of an app"), Words("the only app")),
        key("files", Other("directory, or map"), Words("none")),
        key("redirect", Other("target, or map"), Words("none; instead of app")),
        key("answer", Map, Words("none; instead of app")),
        key("maintenance", Other("true, false or map"), Yaml("false")),
        key("strip_prefix", Other("path"), Words("nothing")),
        key("add_prefix", Other("path"), Words("nothing")),
        key("limits", Map, Words("those of the app and of `limits`")),
    ],
    elsewhere: &[
        ("server_name", Write("write host")),
        ("domain", Write("write host")),
        ("hosts", Write("write one route for each host")),
        ("location", Write("write path")),
        ("prefix", Write("write path: it matches whole segments and everything below")),
        ("paths", Write("write one route for each path")),
        ("upstream", Write("write app")),
        ("backend", Write("write app")),
        ("proxy_pass", Write("write app")),
        ("service", Write("write app")),
        ("path_regex", Write("write regex")),
        ("path_prefix", Write("write path: it matches whole segments and everything below")),
        ("header", Write("write headers: {NAME: value}")),
        ("method", Write("write methods")),
        ("return", Write("write answer: {status: 200, body: ok}, or redirect: {to: /new, status: 301}")),
        ("respond", Write("write answer: {status: 200, body: ok}")),
        ("static", Write("write files: ./public for a directory, answer: {body: ok} for a text")),
        ("root", Write("write files: ./public")),
        ("alias", Write("write files: ./public, and strip_prefix with the path")),
        ("file_server", Write("write files: ./public")),
        ("try_files", Write("write files: ./public; what is not there goes to the app")),
        ("rewrite", Write("write strip_prefix and add_prefix")),
        ("uri", Write("write redirect: {to: /new}")),
    ],
};

pub(in crate::config) const FILES: Section = Section {
    name: "routes.files",
    keys: &[
        key("directory", Other("directory"), Required),
        key("index", Other("name of a file"), Yaml("index.html")),
        key("cache_control", Other("value of the field"), Words("none")),
    ],
    elsewhere: &[
        ("root", Write("write directory")),
        ("path", Write("write directory")),
        ("autoindex", Useless("directories are not listed")),
        ("expires", Write("write cache_control: max-age=3600")),
        ("gzip_static", Useless("FILE.br, FILE.zst and FILE.gz are sent where they are and the client takes them")),
    ],
};

pub(in crate::config) const REDIRECT: Section = Section {
    name: "routes.redirect",
    keys: &[key("to", Other("target"), Required), key("status", Integer(301, 308, ""), Yaml("302"))],
    elsewhere: &[
        ("url", Write("write to")),
        ("target", Write("write to")),
        ("location", Write("write to")),
        ("code", Write("write status")),
        ("permanent", Write("write status: 308")),
    ],
};

pub(in crate::config) const ANSWER: Section = Section {
    name: "routes.answer",
    keys: &[
        key("status", Integer(200, 599, ""), Yaml("200")),
        key("body", Other("text"), Words("nothing")),
        key("file", Other("file"), Words("none; instead of body")),
        key("content_type", Other("media type"), Words("that of the file, else text/plain; charset=utf-8")),
    ],
    elsewhere: &[("text", Write("write body")), ("code", Write("write status")), ("type", Write("write content_type"))],
};

pub(in crate::config) const MAINTENANCE: Section = Section {
    name: "routes.maintenance",
    keys: &[
        key("page", Other("file"), Words("as other errors")),
        key("retry_after", Duration(1000, 7 * 86_400_000), Yaml("2m")),
    ],
    elsewhere: &[("file", Write("write page")), ("status", Useless("it is 503"))],
};

pub(in crate::config) const ROUTE_LIMITS: Section = Section {
    name: "routes.limits",
    keys: &[
        key("body_size", Size(0, 1 << 50, "none"), Words("that of `limits`")),
        key("body_timeout", Duration(10, 86_400_000), Words("that of `limits`")),
        key("body_rate", Integer(0, 1 << 30, ""), Words("that of `limits`")),
        key("response_timeout", Duration(10, 86_400_000), Words("that of the app")),
    ],
    elsewhere: &[
        ("client_max_body_size", Write("write body_size")),
        ("proxy_read_timeout", Write("write response_timeout")),
        ("head_size", Useless("the route is not known before the head: write it under limits")),
        ("head_timeout", Useless("the route is not known before the head: write it under limits")),
        ("keepalive_timeout", Useless("it belongs to connections: write it under limits")),
        ("connections", Useless("it belongs to connections: write it under limits")),
        ("tunnel_idle_timeout", Useless("it is one for all tunnels: write it under limits")),
    ],
};

pub(in crate::config) const LIMITS: Section = Section {
    name: "limits",
    keys: &[
        key("head_size", Size(1024, 1024 * 1024, ""), Yaml("16kib")),
        key("head_timeout", Duration(10, 600_000), Yaml("10s")),
        key("keepalive_timeout", Duration(10, 86_400_000), Yaml("60s")),
        key("body_size", Size(0, 1 << 50, "none"), Yaml("none")),
        key("body_timeout", Duration(10, 86_400_000), Yaml("60s")),
        key("body_rate", Integer(0, 1 << 30, ""), Yaml("240")),
        key("tunnel_idle_timeout", Duration(10, 30 * 86_400_000), Yaml("1h")),
        key("connections", Integer(1, 10_000_000, ""), Yaml("100000")),
    ],
    elsewhere: &[
        ("client_header_timeout", Write("write head_timeout")),
        ("client_header_buffer_size", Write("write head_size")),
        ("large_client_header_buffers", Write("write head_size")),
        ("header_size", Write("write head_size")),
        ("header_timeout", Write("write head_timeout")),
        ("http-request", Write("write head_timeout")),
        ("client_max_body_size", Write("write body_size")),
        ("max_body_size", Write("write body_size")),
        ("client_body_timeout", Write("write body_timeout")),
        ("keep_alive_timeout", Write("write keepalive_timeout")),
        ("http-keep-alive", Write("write keepalive_timeout")),
        ("tunnel", Write("write tunnel_idle_timeout")),
        ("tunnel_timeout", Write("write tunnel_idle_timeout")),
        ("websocket_timeout", Write("write tunnel_idle_timeout")),
        ("websocket_idle_timeout", Write("write tunnel_idle_timeout")),
        ("maxconn", Write("write connections")),
        ("max_connections", Write("write connections")),
        ("worker_connections", Write("write connections")),
        ("proxy_read_timeout", Write("write response_timeout for the app")),
        ("response_timeout", Write("write it for the app, under apps")),
        ("rate", Write("write clients: {requests: 100/s}, at the left margin")),
        ("rate_limit", Write("write clients: {requests: 100/s}, at the left margin")),
        ("limit_req", Write("write clients: {requests: 100/s}, at the left margin")),
        ("limit_conn", Write("write clients: {connections: 200}, at the left margin")),
        ("connections_per_client", Write("write clients: {connections: 200}, at the left margin")),
    ],
};
