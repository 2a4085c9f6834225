//! Noise: whatever comes, nothing panics, and no plaintext is given that was not sent.
//!
//! For longer than a moment: `RECORD_FUZZ_SECONDS=600 cargo test --lib tls::record::tests::fuzz`.

use super::super::state::Buffers;
use super::super::stream::RecordStream;
use super::stream::{Stream, Wire, read, write};
use super::*;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Rounds of each test, if no time is given.
const ROUNDS: u64 = 3000;

fn rounds() -> impl Iterator<Item = u64> {
    let seconds = std::env::var("RECORD_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let start = if end.is_some() { fastrand::u64(..u64::MAX / 2) } else { 0 };
    println!("seeds from {start}");
    (start..).enumerate().map_while(move |(round, seed)| {
        let on = end.map_or((round as u64) < ROUNDS, |end| Instant::now() < end);
        on.then_some(seed)
    })
}

/// What a client has sent, record by record, and what was in it; and our side's state before it.
struct Recorded {
    state: Vec<u8>,
    records: Vec<Vec<u8>>,
    text: Vec<u8>,
}

fn recorded(suite: Suite) -> Recorded {
    let (mut client, layer) = pair(suite);
    let state = RecordStream::new(Wire::default(), layer, Buffers::default()).save().unwrap().to_vec();
    let (mut records, mut whole) = (Vec::new(), Vec::new());
    for (number, length) in [5, 300, 1, 16_384, 40, 2000, 7].into_iter().enumerate() {
        if number % 3 == 2 {
            client.refresh_traffic_keys().unwrap();
            records.push(sent(&mut client));
        }
        let text = text(number as u64, length);
        records.push(say(&mut client, &text));
        whole.extend(text);
    }
    Recorded { state, records, text: whole }
}

/// Changes one thing.
fn mutate(random: &mut fastrand::Rng, records: &mut Vec<Vec<u8>>) {
    let any = random.usize(..records.len());
    if records[any].is_empty() {
        return;
    }
    let at = random.usize(..records[any].len());
    match random.u8(..10) {
        0 => records[any][at] ^= 1 << random.u8(..8),
        1 => records[any][at] = random.u8(..),
        2 => records[any].insert(at, random.u8(..)),
        3 => drop(records[any].remove(at)),
        4 => records[any].truncate(at.max(1)),
        5 => {
            let again = records[any].clone();
            records.insert(random.usize(..=records.len()), again);
        }
        6 if records.len() > 1 => drop(records.remove(any)),
        7 => {
            let other = random.usize(..records.len());
            records.swap(any, other);
        }
        // A header, where most rules are.
        8 => records[any][random.usize(..5_usize.min(at + 1))] = random.u8(..),
        _ => records[any] = (0..random.usize(1..400)).map(|_| random.u8(..)).collect(),
    }
}

/// All that the stream gives back for these bytes, in pieces, with a move now and then.
fn feed(random: &mut fastrand::Rng, state: &[u8], bytes: &[u8]) -> Vec<u8> {
    let wire = Wire::with_room(random.usize(..60));
    let mut stream: Stream = RecordStream::restore(wire.clone(), state).unwrap();
    let mut got = Vec::new();
    let mut rest = bytes;
    loop {
        match read(&mut stream, random.usize(1..20_000)) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => return got,
            Poll::Ready(Ok(bytes)) => got.extend(bytes),
            Poll::Ready(Err(_)) => {
                assert!(matches!(read(&mut stream, 10), Poll::Ready(Err(_))), "nothing comes after a fault");
                return got;
            }
            Poll::Pending if rest.is_empty() => {
                wire.end();
                continue;
            }
            Poll::Pending => {
                let piece;
                (piece, rest) = rest.split_at(random.usize(1..=rest.len()));
                wire.arrive(piece);
            }
        }
        if random.u8(..8) == 0 {
            let _ = write(&mut stream, b"an answer");
        }
        if random.u8(..4) == 0
            && let Some(saved) = stream.save()
        {
            stream = RecordStream::restore(wire.clone(), &saved).unwrap();
        }
    }
}

#[test]
fn records_that_were_tampered_with_give_nothing_that_was_not_sent() {
    let all = Suite::ALL.map(recorded);
    let (mut count, mut cut) = (0_u64, 0_u64);
    for seed in rounds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let Recorded { state, records, text } = &all[random.usize(..all.len())];
        let mut records = records.clone();
        for _ in 0..random.usize(..4) {
            mutate(&mut random, &mut records);
        }
        let got = feed(&mut random, state, &records.concat());
        assert!(text.starts_with(&got), "seed {seed}: {} bytes are not those that were sent", got.len());
        count += 1;
        cut += u64::from(got.len() < text.len());
    }
    println!("{count} streams, {cut} of them cut");
    assert!(cut > count / 2 && cut < count, "{cut} of {count}");
}

#[test]
fn states_that_were_tampered_with_do_no_harm() {
    let all = Suite::ALL.map(recorded);
    for seed in rounds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let Recorded { state, records, .. } = &all[random.usize(..all.len())];
        let mut states = vec![state.clone()];
        for _ in 0..random.usize(1..4) {
            mutate(&mut random, &mut states);
        }
        let state = states.concat();
        if RecordStream::restore(Wire::default(), &state).is_ok() {
            feed(&mut random, &state, &records.concat());
        }
    }
}
