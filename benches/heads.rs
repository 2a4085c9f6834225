//! Time per call of what runs on every request: `cargo bench --bench heads`. Plain loops, best of several rounds;
//! httparse beside them as a yardstick.

// The modules bring more than is timed here, and their tests.
#![allow(dead_code, unused_imports)]

#[path = "../src/gateway"]
mod gateway {
    #[path = "tunnel/frame.rs"]
    pub(crate) mod frame;
    pub(crate) mod http1;
    #[path = "request/socketio.rs"]
    pub(crate) mod socketio;
}

use gateway::http1::body::BodyScanner;
use gateway::http1::head::{Limits, check};
use gateway::http1::{Body, Method, response};
use gateway::{frame, socketio};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SMALL: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nUser-Agent: curl/8.5\r\nAccept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /socket.io/?EIO=4&transport=polling&t=PqLzO3a&sid=lv_VI97HAXpY6yYWAAAB HTTP/1.1\r\n\
Host: chat.example.com\r\n\
Connection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"130\", \"Google Chrome\";v=\"130\", \"Not?A_Brand\";v=\"99\"\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n\
sec-ch-ua-mobile: ?0\r\n\
Accept: */*\r\n\
Sec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: cors\r\n\
Sec-Fetch-Dest: empty\r\n\
Referer: https://chat.example.com/\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-US,en;q=0.9,de;q=0.8\r\n\
Cookie: _ga=GA1.1.1234567890.1700000000; session=eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.abcdefghijklmnopqrstuvwxyz\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 118\r\n\
cache-control: no-store\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=75\r\n\r\n";

fn time(name: &str, bytes: usize, mut call: impl FnMut()) {
    const CALLS: u32 = 50_000;
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        best = best.min(start.elapsed());
    }
    let nanos = best.as_nanos() as f64 / f64::from(CALLS);
    println!("{name:<36} {bytes:>6} B {nanos:>8.1} ns {:>8.2} GB/s", bytes as f64 / nanos);
}

fn main() {
    let limits = Limits::default();
    for (name, head) in [("small", SMALL), ("browser", BROWSER)] {
        time(&format!("request head, {name}"), head.len(), || {
            let _ = black_box(check(black_box(head), 0, &limits));
        });
        time(&format!("  httparse, {name}"), head.len(), || {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let _ = black_box(httparse::Request::new(&mut headers).parse(black_box(head)));
        });
    }
    time("answer head", ANSWER.len(), || {
        let _ = black_box(response::check(black_box(ANSWER), 0, Method::Get));
    });
    let target = b"/socket.io/?EIO=4&transport=polling&t=PqLzO3a&sid=lv_VI97HAXpY6yYWAAAB";
    time("Engine.IO query", target.len(), || {
        black_box(socketio::Query::parse(black_box(target)));
    });
    let chunked = [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n0\r\n\r\n"].concat();
    time("chunked body of 16 KiB", chunked.len(), || {
        let _ = black_box(BodyScanner::new(Body::Chunked).advance(black_box(&chunked)));
    });
    let mut tracker = frame::Tracker::new();
    let message = [&[0x81, 0x80 | 32, 1, 2, 3, 4][..], &[b'x'; 32]].concat();
    time("WebSocket frame of 32 B", message.len(), || tracker.feed(black_box(&message)));
}
