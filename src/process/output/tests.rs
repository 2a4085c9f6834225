use super::*;
use crate::process::tests::Temp;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc;
use tokio::time::timeout;

/// Writes into memory, and only as fast as the test lets it.
struct Slow {
    written: Arc<Mutex<Vec<u8>>>,
    turns: mpsc::Receiver<()>,
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test has let go of its end: as fast as it can.
        let _ = self.turns.recv();
        self.written.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn slow(capacity: usize) -> (Arc<Sink>, Arc<Mutex<Vec<u8>>>, mpsc::Sender<()>) {
    let (turn, turns) = mpsc::channel();
    let written = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink::with_capacity(Box::new(Slow { written: written.clone(), turns }), capacity).unwrap();
    (sink, written, turn)
}

fn text(written: &Mutex<Vec<u8>>) -> String {
    String::from_utf8(written.lock().unwrap().clone()).unwrap()
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_slow_output_costs_lines_which_are_counted_where_they_are_missing() {
    let (sink, written, turn) = slow(1000);
    let line = |n: usize| format!("{n:09}\n");
    (0..1000).for_each(|n| sink.push(line(n)));
    let dropped = sink.dropped();
    // What is queued, and at most one batch that the writer has in hand.
    assert!((800..=900).contains(&dropped), "{dropped}");
    drop(turn);
    sink.close(LIMIT);
    sink.push("too late\n".to_owned());
    let text = text(&written);
    let (lines, note) = text.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(note, format!("pingora-unix-proxy | {dropped} lines dropped: our own output is too slow"));
    let kept: Vec<String> = (0..1000 - dropped as usize).map(|n| format!("{n:09}")).collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), kept);
    assert_eq!(sink.dropped(), dropped + 1);
}

#[test]
fn lines_flow_again_after_a_gap() {
    let (sink, written, turn) = slow(100);
    (0..50).for_each(|n| sink.push(format!("before {n}\n")));
    drop(turn);
    // Until the queue is empty a line may still be dropped, and counted.
    let began = std::time::Instant::now();
    while !text(&written).contains("after") {
        assert!(began.elapsed() < LIMIT);
        sink.push("after\n".to_owned());
        std::thread::yield_now();
    }
    sink.close(LIMIT);
    let text = text(&written);
    assert!(text.find("before 0").unwrap() < text.find("dropped").unwrap());
    assert!(text.find("dropped").unwrap() < text.find("after").unwrap());
}

#[test]
fn an_output_that_hangs_or_fails_holds_nobody_up() {
    let (sink, _, turn) = slow(1000);
    sink.push("stuck\n".to_owned());
    let began = std::time::Instant::now();
    sink.close(Duration::from_millis(20));
    assert!(began.elapsed() < LIMIT);
    drop(turn);

    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::start(Box::new(Broken)).unwrap();
    (0..10_000).for_each(|_| sink.push("x".repeat(1000)));
    sink.close(LIMIT);
}

#[tokio::test]
async fn a_stream_is_read_to_its_last_word() {
    let temp = Temp::new();
    let (mut worker, pipe) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (sink, written, turn) = slow(1 << 20);
    drop(turn);
    let tail = Arc::new(Tail::default());
    let (_exited, exited_in) = watch::channel(false);
    let reading = tokio::spawn(read(pipe, "chat[0] 7 err".into(), sink.clone(), Some(tail.clone()), exited_in));
    worker.write_all(b"one\ntwo\nlast words").unwrap();
    drop(worker);
    timeout(LIMIT, reading).await.unwrap().unwrap();
    sink.close(LIMIT);
    assert_eq!(text(&written), "chat[0] 7 err | one\nchat[0] 7 err | two\nchat[0] 7 err | last words\n");
    assert_eq!(tail.lines(), ["one", "two", "last words"]);
}

#[tokio::test]
async fn a_stream_that_somebody_keeps_open_is_left_after_the_exit() {
    let temp = Temp::new();
    let (mut worker, pipe) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (sink, written, turn) = slow(1 << 20);
    drop(turn);
    let (exited, exited_in) = watch::channel(false);
    let reading = tokio::spawn(read(pipe, "x".into(), sink.clone(), None, exited_in));
    worker.write_all(b"held").unwrap();
    exited.send_replace(true);
    timeout(LIMIT, reading).await.unwrap().unwrap();
    sink.close(LIMIT);
    assert_eq!(text(&written), "x | held\n");
}

#[tokio::test]
async fn a_worker_never_sees_its_reader_leave() {
    let temp = Temp::new();
    let path = temp.0.join("out");
    let (mut worker, pipe) = make_pipe(&path, None).unwrap();
    drop(pipe);
    let big = vec![b'x'; 900_000];
    worker.write_all(&big).unwrap();
    let mut again = pipe::open_reader(&path).unwrap();
    let mut got = vec![0; big.len()];
    timeout(LIMIT, again.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, big);
}

#[test]
fn the_last_words_are_bounded() {
    let tail = Tail::default();
    (0..200).for_each(|n| tail.push(&format!("{n} {}", "é".repeat(1000))));
    let lines = tail.lines();
    assert_eq!(lines.len(), 50);
    assert!(lines[0].starts_with("150 ") && lines.iter().all(|line| line.len() <= 512));
}
