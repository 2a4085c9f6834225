//! Seeded mutations of good messages: the verdict must not depend on how the bytes are cut, and what is accepted must
//! be read in the same way by httparse, which Pingora uses.

use crate::gateway::http1::body::BodyScanner;
use crate::gateway::http1::head::{self, Limits};
use crate::gateway::http1::{Body, Method, Progress, Reject, response};
use fastrand::Rng;

const HEADS: [&str; 5] = [
    "GET /socket.io/?EIO=4&transport=polling&t=x HTTP/1.1\r\nHost: a.example\r\nUser-Agent: M/5.0 (X11)\r\nAccept: */*\r\n\r\n",
    "\r\nPOST /x HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\nExpect: 100-continue\r\nX-A:\r\n\r\nhello",
    "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "PUT http://a/x HTTP/1.1\r\nhost: A\r\ntransfer-encoding: chunked\r\nCookie: io=1; b=\"2\"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nX-Obs: \u{e9}\r\n\r\n\r\n",
];
const CHUNKS: [&str; 3] = [
    "5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n",
    "1a;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n000\r\nX-T: a b\r\nY:\r\n\r\n",
    "1\r\n\r\r\n2 ; x\r\n\r\n\r\n0\r\n\r\n",
];
const ANSWERS: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 97\r\nDate: Mon\r\nConnection: keep-alive\r\n\r\n0{",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x=\r\n\r\n\x01\x02",
    "HTTP/1.0 404 \r\nServer: SimpleHTTP\r\nTransfer-Encoding: chunked\r\n\r\n",
];

/// Puts bytes that matter to a parser where they hurt.
fn mutate(rng: &mut Rng, seed: &str) -> Vec<u8> {
    const TOOLS: [&[u8]; 22] = [
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x7f",
        b"\x80",
        b",",
        b"0",
        b"5",
        b";",
        b"#",
        b"\r\n\r\n",
        b"\r\n ",
        b"Host: a\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"/",
        b"\x0b",
    ];
    let mut bytes = seed.as_bytes().to_vec();
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(0..bytes.len());
        let end = (at + rng.usize(0..3)).min(bytes.len());
        let tool = if rng.u8(0..8) == 0 { &[rng.u8(..)][..] } else { TOOLS[rng.usize(0..TOOLS.len())] };
        bytes.splice(at..end, tool.iter().copied());
        if bytes.is_empty() {
            bytes.push(b'G');
        }
    }
    bytes
}

/// Feeds growing prefixes, as reads from a socket would, up to the first verdict.
fn incremental<H, E>(
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
    check: impl Fn(&[u8], usize) -> Result<Progress<H>, E>,
) -> Result<Progress<H>, E> {
    let mut scanned = 0;
    for cut in cuts {
        match check(&bytes[..cut], scanned)? {
            Progress::Partial { scanned: upto } => scanned = upto,
            done => return Ok(done),
        }
    }
    check(bytes, scanned)
}

fn random_cuts(rng: &mut Rng, len: usize) -> impl Iterator<Item = usize> + use<> {
    let mut cuts: Vec<usize> = (0..rng.usize(0..5)).map(|_| rng.usize(0..=len)).collect();
    cuts.sort_unstable();
    cuts.into_iter()
}

#[test]
fn a_head_is_judged_alike_however_it_is_cut() {
    let mut rng = Rng::with_seed(11);
    let tight = Limits { request_line: 60, total: 130, fields: 4 };
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..6_000 {
        let bytes = mutate(&mut rng, HEADS[round % HEADS.len()]);
        let limits = if round % 7 == 0 { tight } else { Limits::default() };
        let check = |buf: &[u8], scanned: usize| head::check(buf, scanned, &limits);
        // Every prefix, checked afresh and checked on from the byte before: the same.
        let mut scanned = 0;
        let mut verdict = None;
        for cut in 0..=bytes.len() {
            let fresh = check(&bytes[..cut], 0);
            match &verdict {
                None => {
                    assert_eq!(check(&bytes[..cut], scanned), fresh, "{cut} of {:?}", String::from_utf8_lossy(&bytes))
                }
                // More bytes never change a verdict.
                Some(first) => assert_eq!(fresh, *first, "{cut} of {:?}", String::from_utf8_lossy(&bytes)),
            }
            match fresh {
                Ok(Progress::Partial { scanned: upto }) => scanned = upto,
                done => verdict = Some(done),
            }
        }
        let at_random = incremental(&bytes, random_cuts(&mut rng, bytes.len()), check);
        assert_eq!(at_random, check(&bytes, 0), "{:?}", String::from_utf8_lossy(&bytes));
        match verdict {
            Some(Ok(_)) => accepted += 1,
            Some(Err(_)) => refused += 1,
            None => {}
        }
    }
    assert!(accepted > 1_000 && refused > 1_000, "one-sided: {accepted} accepted, {refused} refused");
}

#[test]
fn an_answer_is_judged_alike_however_it_is_cut() {
    let mut rng = Rng::with_seed(12);
    for round in 0..6_000 {
        let bytes = mutate(&mut rng, ANSWERS[round % ANSWERS.len()]);
        let check = |buf: &[u8], scanned: usize| response::check(buf, scanned, Method::Get);
        let whole = check(&bytes, 0);
        assert_eq!(incremental(&bytes, 0..bytes.len(), check), whole);
        assert_eq!(incremental(&bytes, random_cuts(&mut rng, bytes.len()), check), whole);
    }
}

#[test]
fn a_body_ends_alike_however_it_is_cut() {
    let scan = |bytes: &[u8], cuts: &mut dyn Iterator<Item = usize>| -> Result<(usize, bool, u64), Reject> {
        let mut scanner = BodyScanner::new(Body::Chunked);
        let (mut from, mut taken) = (0, 0);
        for cut in cuts.chain([bytes.len()]) {
            let piece = &bytes[from..cut];
            let n = scanner.advance(piece)?;
            assert!(n == piece.len() || scanner.is_done());
            taken += n;
            from = cut;
        }
        Ok((taken, scanner.is_done(), scanner.payload()))
    };
    let mut rng = Rng::with_seed(13);
    let mut ended = 0;
    for round in 0..20_000 {
        let bytes = mutate(&mut rng, CHUNKS[round % CHUNKS.len()]);
        let whole = scan(&bytes, &mut std::iter::empty());
        assert_eq!(scan(&bytes, &mut (0..bytes.len())), whole, "{:?}", String::from_utf8_lossy(&bytes));
        assert_eq!(scan(&bytes, &mut random_cuts(&mut rng, bytes.len())), whole);
        if let Ok((taken, true, payload)) = whole {
            ended += 1;
            assert_eq!(chunked_by_httparse(&bytes), Some((taken, payload)), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }
    assert!(ended > 2_000, "{ended}");
}

/// End and payload of a chunked body by httparse's reading of sizes and trailers.
fn chunked_by_httparse(bytes: &[u8]) -> Option<(usize, u64)> {
    let (mut at, mut payload) = (0, 0);
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(&bytes[at..]) else {
            return None;
        };
        at += line;
        if size == 0 {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let Ok(httparse::Status::Complete((trailer, _))) = httparse::parse_headers(&bytes[at..], &mut headers)
            else {
                return None;
            };
            return Some((at + trailer, payload));
        }
        payload += size;
        at += size as usize;
        at += bytes[at..].starts_with(b"\r\n").then_some(2)?;
    }
}

#[test]
fn what_is_accepted_httparse_reads_the_same() {
    let mut rng = Rng::with_seed(14);
    let mut accepted = 0;
    for round in 0..60_000 {
        let bytes = mutate(&mut rng, HEADS[round % HEADS.len()]);
        let Ok(Progress::Complete(head)) = head::check(&bytes, 0, &Limits::default()) else { continue };
        accepted += 1;
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(head.len)), "{shown:?}");
        assert_eq!(request.method.map(str::as_bytes), Some(head.method_name.of(&bytes)), "{shown:?}");
        assert_eq!(request.path.map(str::as_bytes), Some(head.target.of(&bytes)), "{shown:?}");
        let theirs: Vec<_> = request.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii())).collect();
        assert_eq!(head.headers(&bytes).collect::<Vec<_>>(), theirs, "{shown:?}");
        assert_eq!(theirs.len(), usize::from(head.field_count));
    }
    assert!(accepted > 10_000, "{accepted}");
}

#[test]
fn accepted_answers_httparse_reads_the_same() {
    let mut rng = Rng::with_seed(15);
    let mut accepted = 0;
    for round in 0..30_000 {
        let bytes = mutate(&mut rng, ANSWERS[round % ANSWERS.len()]);
        let Ok(Progress::Complete(head)) = response::check(&bytes, 0, Method::Get) else { continue };
        accepted += 1;
        let mut headers = [httparse::EMPTY_HEADER; 256];
        let mut answer = httparse::Response::new(&mut headers);
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(answer.parse(&bytes), Ok(httparse::Status::Complete(head.len)), "{shown:?}");
        assert_eq!(answer.code, Some(head.status), "{shown:?}");
        let theirs: Vec<_> = answer.headers.iter().map(|h| (h.name.as_bytes(), h.value.trim_ascii())).collect();
        assert_eq!(head.headers(&bytes).collect::<Vec<_>>(), theirs, "{shown:?}");
    }
    assert!(accepted > 5_000, "{accepted}");
}
