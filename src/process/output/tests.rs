use super::files::Files;
use super::sink::{Bounds, Lane, Sink};
use super::writer::{Failed, Output};
use super::*;
use crate::process::tests::Temp;
use crate::worker::{Generation, Incarnation, Slot, WorkerId};
use format::Encoder;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::time::SystemTime;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);
const SMALL: Bounds = Bounds { all: 10_000, lane: 6_000, reserve: 1_000 };

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

type Written = Arc<Mutex<Vec<u8>>>;

fn slow() -> (Box<dyn Write + Send>, Written, mpsc::Sender<()>) {
    let (turn, turns) = mpsc::channel();
    let written = Arc::new(Mutex::new(Vec::new()));
    (Box::new(Slow { written: written.clone(), turns }), written, turn)
}

fn text(written: &Written) -> String {
    String::from_utf8(written.lock().unwrap().clone()).unwrap()
}

fn id(app: &str, slot: u16) -> WorkerId {
    WorkerId { app: app.into(), slot: Slot(slot), incarnation: Incarnation(1) }
}

fn lane(slot: u16) -> (Arc<Lane>, Arc<AtomicU64>) {
    let dropped = Arc::new(AtomicU64::new(0));
    let encoder = Encoder::new(Format::Text, &id("chat", slot), 7, Generation(1), Stream::Out);
    (Lane::new(Path::new("").into(), encoder.into(), dropped.clone()), dropped)
}

fn push(sink: &Sink, lane: &Arc<Lane>, line: &str) {
    sink.push(lane, &format!("{line}\n").into_bytes().into(), 1);
}

/// Hands the writer a line that it cannot write yet, so that the queue stays as the test fills it.
fn hold_up(sink: &Sink, lane: &Arc<Lane>) {
    push(sink, lane, "first");
    let began = Instant::now();
    while !sink.is_writing_all() {
        assert!(began.elapsed() < LIMIT);
        std::thread::yield_now();
    }
}

/// What comes before the label is the time.
fn without_time(text: &str) -> Vec<String> {
    let cut = |line: &str| {
        let (time, rest) = line.split_once(' ').expect(line);
        assert!(humantime::parse_rfc3339(time).is_ok() && time.len() == 24, "{line}");
        rest.to_owned()
    };
    text.lines().map(cut).collect()
}

#[test]
fn a_slow_output_costs_lines_which_are_counted_where_they_are_missing() {
    let (output, written, turn) = slow();
    let sink = writer::start(output, Format::Text, SMALL).unwrap();
    let (lane, dropped) = lane(0);
    hold_up(&sink, &lane);
    (0..1000).for_each(|n| push(&sink, &lane, &format!("{n:09}")));
    let lost = dropped.load(Relaxed);
    // As many fit as a lane may have.
    assert_eq!(lost, 1000 - 6_000 / (10 + 128));
    drop(turn);
    sink.close(LIMIT);
    push(&sink, &lane, "too late");
    let text = text(&written);
    let (lines, note) = text.trim_end().rsplit_once('\n').unwrap();
    let expected = format!("chat[0] 7 g1 out ! … {lost} lines dropped: they came faster than they could be written");
    assert_eq!(without_time(note), [expected]);
    let kept = ["first".to_owned()].into_iter().chain((0..1000 - lost).map(|n| format!("{n:09}")));
    let kept: Vec<String> = kept.collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), kept);
    assert_eq!(dropped.load(Relaxed), lost + 1);
}

#[test]
fn a_stream_that_writes_little_loses_nothing_to_one_that_writes_much() {
    let (output, written, turn) = slow();
    let sink = writer::start(output, Format::Text, SMALL).unwrap();
    let loud: Vec<_> = (0..20).map(lane).collect();
    let (quiet, lost) = lane(99);
    hold_up(&sink, &quiet);
    for n in 0..1000 {
        loud.iter().for_each(|(lane, _)| push(&sink, lane, "much"));
        if n % 250 == 0 {
            push(&sink, &quiet, &format!("little {n}"));
        }
    }
    assert!(loud.iter().all(|(_, lost)| lost.load(Relaxed) > 0));
    assert_eq!(lost.load(Relaxed), 0);
    drop(turn);
    sink.close(LIMIT);
    assert_eq!(text(&written).matches("little").count(), 4);
}

#[test]
fn lines_flow_again_after_a_gap() {
    let (output, written, turn) = slow();
    let sink = writer::start(output, Format::Text, SMALL).unwrap();
    let (lane, dropped) = lane(0);
    hold_up(&sink, &lane);
    (0..500).for_each(|n| push(&sink, &lane, &format!("before {n}")));
    drop(turn);
    // Until the writer has come to the gap a line may still be dropped, and counted.
    let began = Instant::now();
    while !text(&written).contains("after") {
        assert!(began.elapsed() < LIMIT);
        push(&sink, &lane, "after");
        std::thread::yield_now();
    }
    sink.close(LIMIT);
    let text = text(&written);
    assert!(text.find("before 0").unwrap() < text.find("dropped").unwrap());
    assert!(text.find("dropped").unwrap() < text.find("after").unwrap());
    let told = text.lines().filter_map(|line| line.split("… ").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    assert_eq!(told.sum::<u64>(), dropped.load(Relaxed));
}

#[test]
fn an_output_that_hangs_holds_nobody_up() {
    let (output, _, turn) = slow();
    let sink = writer::start(output, Format::Text, SMALL).unwrap();
    push(&sink, &lane(0).0, "stuck");
    let began = Instant::now();
    sink.close(Duration::from_millis(20));
    assert!(began.elapsed() < LIMIT);
    drop(turn);
}

/// Fails while told so, after half of what it is given.
struct Failing {
    fails: Arc<AtomicBool>,
    written: Written,
}

impl Output for Failing {
    fn write(&mut self, _: &Path, bytes: &[u8], _: SystemTime) -> Result<(), Failed> {
        let written = if self.fails.load(Relaxed) { bytes.len() / 2 } else { bytes.len() };
        self.written.lock().unwrap().extend_from_slice(&bytes[..written]);
        if written < bytes.len() { Err(Failed { written, error: io::ErrorKind::StorageFull.into() }) } else { Ok(()) }
    }
}

#[test]
fn an_output_that_fails_is_tried_again_and_every_line_comes_or_is_counted() {
    let (fails, written) = (Arc::new(AtomicBool::new(true)), Written::default());
    let output = Failing { fails: fails.clone(), written: written.clone() };
    let sink = writer::start(output, Format::Text, Bounds::default()).unwrap();
    let (lane, dropped) = lane(0);
    let mut pushed = 0;
    let mut push_some = || {
        (0..10).for_each(|n| push(&sink, &lane, &format!("T line {n}")));
        pushed += 10;
        std::thread::sleep(Duration::from_millis(5));
    };
    push_some();
    let began = Instant::now();
    while dropped.load(Relaxed) < 20 {
        assert!(began.elapsed() < LIMIT);
        push_some();
    }
    fails.store(false, Relaxed);
    while !text(&written).contains("writing failed") {
        assert!(began.elapsed() < LIMIT);
        sink.reopen();
        push_some();
    }
    sink.close(LIMIT);
    let text = text(&written);
    let whole = text.lines().filter(|line| line.starts_with("T line ") && line.len() == 8).count();
    let lost = dropped.load(Relaxed);
    assert_eq!(whole as u64 + lost, pushed, "{text}");
    // Nothing hangs on a torn line.
    let note = text.lines().find(|line| line.contains("dropped")).unwrap();
    let note = without_time(note).remove(0);
    assert_eq!(note, format!("pingora-unix-proxy ! … {lost} lines dropped: writing failed: no storage space"));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn files_are_rotated_by_size_and_only_some_are_kept() {
    let temp = Temp::new();
    let path = temp.0.join("deep/er/chat.log");
    let mut files = Files::new(Rotate { size: Some(10), age: None, keep: 2 });
    let now = SystemTime::now();
    for n in 0..7 {
        files.write(&path, format!("line{n}\n").as_bytes(), now).unwrap();
    }
    let dir = path.parent().unwrap();
    assert_eq!(names(dir), ["chat.log", "chat.log.1", "chat.log.2"]);
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!([read("chat.log"), read("chat.log.1"), read("chat.log.2")], ["line6\n", "line5\n", "line4\n"]);
    // More than the size at once is one file.
    files.write(&path, &[b'x'; 30], now).unwrap();
    assert_eq!(read("chat.log").len(), 30);
    let mut none = Files::new(Rotate { size: Some(10), age: None, keep: 0 });
    none.write(&path, b"anew\n", now).unwrap();
    assert_eq!((read("chat.log"), read("chat.log.1").as_str()), ("anew\n".to_owned(), "line6\n"));
}

#[test]
fn files_are_rotated_by_age() {
    let temp = Temp::new();
    let path = temp.0.join("chat.log");
    let age = Duration::from_secs(3600);
    let mut files = Files::new(Rotate { size: None, age: Some(age), keep: 5 });
    let now = SystemTime::now();
    files.write(&path, b"one\n", now).unwrap();
    files.write(&path, b"two\n", now + age / 2).unwrap();
    assert!(files.wake(now + age / 2).is_some());
    assert_eq!(names(&temp.0), ["chat.log"]);
    // Also without a line.
    files.wake(now + age);
    assert_eq!(names(&temp.0), ["chat.log", "chat.log.1"]);
    files.write(&path, b"three\n", now + age).unwrap();
    // An empty file is not put aside, and a clock that went back harms nothing.
    files.wake(now - age);
    files.write(&path, b"four\n", now + 2 * age).unwrap();
    files.wake(now + 9 * age);
    files.wake(now + 19 * age);
    assert_eq!(names(&temp.0), ["chat.log", "chat.log.1", "chat.log.2", "chat.log.3"]);
    // It is as old as the file, not as the process.
    std::fs::write(&path, "old\n").unwrap();
    let mut again = Files::new(Rotate { size: None, age: Some(age), keep: 1 });
    again.write(&path, b"new\n", SystemTime::now() + 2 * age).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
}

#[test]
fn files_that_were_moved_away_are_opened_anew() {
    let temp = Temp::new();
    let (path, moved) = (temp.0.join("chat.log"), temp.0.join("moved"));
    let mut files = Files::new(Rotate::default());
    let now = SystemTime::now();
    files.write(&path, b"one\n", now).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    files.write(&path, b"two\n", now).unwrap();
    files.reopen(now);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    files.write(&path, b"three\n", now).unwrap();
    assert_eq!(std::fs::read(&moved).unwrap(), b"one\ntwo\n");
    assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
}

#[tokio::test]
async fn a_file_that_cannot_be_is_an_error_and_no_harm() {
    let temp = Temp::new();
    let mut files = Files::new(Rotate::default());
    let now = SystemTime::now();
    let link = temp.0.join("link");
    std::os::unix::fs::symlink(temp.0.join("target"), &link).unwrap();
    let error = files.write(&link, b"x\n", now).unwrap_err().error;
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert!(!temp.0.join("target").exists());
    assert!(files.write(&temp.0, b"x\n", now).is_err());
    assert!(files.write(&link.join("below"), b"x\n", now).is_err());
    // A pipe that nobody reads does not hold us up.
    let pipe = temp.0.join("pipe");
    drop(make_pipe(&pipe, None).unwrap());
    assert!(files.write(&pipe, b"x\n", now).is_err());
    let full = files.write(Path::new("/dev/full"), b"x\n", now).unwrap_err();
    assert_eq!((full.written, full.error.kind()), (0, io::ErrorKind::StorageFull));
}

#[test]
fn many_files_do_not_stay_open() {
    let temp = Temp::new();
    let mut files = Files::new(Rotate::default());
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = || open().filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(&temp.0))).count();
    for round in 0..2 {
        for n in 0..300 {
            files.write(&temp.0.join(n.to_string()), b"x\n", SystemTime::now()).unwrap();
        }
        assert!(ours() <= 256, "round {round}");
    }
    assert!((0..300).all(|n| std::fs::read(temp.0.join(n.to_string())).unwrap() == b"x\nx\n"));
}

fn policy(files: Option<FilePolicy>) -> Policy {
    Policy { format: Format::Text, stdout: true, files }
}

fn logs(policy: Policy) -> (Arc<Logs>, Written) {
    let (output, written, _) = slow();
    let logs = Logs::new(policy);
    logs.start(Some(output)).unwrap();
    (logs, written)
}

#[tokio::test]
async fn a_stream_is_read_to_its_last_word() {
    let temp = Temp::new();
    let (mut worker, pipe) = make_pipe(&temp.0.join("out"), None).unwrap();
    let path = temp.0.join("{app}-{slot}-{stream}.log").to_str().unwrap().to_owned();
    let (logs, written) = logs(policy(Some(FilePolicy { path, rotate: Rotate::default() })));
    let tail = Arc::new(Tail::default());
    let (_exited, exited_in) = watch::channel(false);
    let feed = logs.feed(&id("chat", 3), 7, Generation(2), Stream::Err);
    let reading = tokio::spawn(read(rest(pipe), feed, Some(tail.clone()), ends(exited_in)));
    worker.write_all(b"one\ntwo\nlast words").unwrap();
    drop(worker);
    timeout(LIMIT, reading).await.unwrap().unwrap();
    logs.close(LIMIT);
    let expected =
        ["chat[3] 7 g2 err | one", "chat[3] 7 g2 err | two", "chat[3] 7 g2 err | last words"].map(str::to_owned);
    assert_eq!(without_time(&text(&written)), expected);
    assert_eq!(tail.lines(), ["one", "two", "last words"]);
    assert_eq!(std::fs::read_to_string(temp.0.join("chat-3-err.log")).unwrap(), text(&written));
    assert_eq!((logs.directory(), logs.dropped()), (Some(temp.0.as_path()), vec![("chat".into(), 0)]));
}

#[tokio::test]
async fn a_stream_that_somebody_keeps_open_is_left_after_the_exit() {
    let temp = Temp::new();
    let (mut worker, pipe) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (logs, written) = logs(policy(None));
    let (exited, exited_in) = watch::channel(false);
    let feed = logs.feed(&id("x", 0), 1, Generation(1), Stream::Out);
    let reading = tokio::spawn(read(rest(pipe), feed, None, ends(exited_in)));
    worker.write_all(b"held").unwrap();
    exited.send_replace(true);
    timeout(LIMIT, reading).await.unwrap().unwrap();
    logs.close(LIMIT);
    assert_eq!(without_time(&text(&written)), ["x[0] 1 g1 out | held"]);
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
    timeout(LIMIT, tokio::io::AsyncReadExt::read_exact(&mut again, &mut got)).await.unwrap().unwrap();
    assert_eq!(got, big);
}

/// Every line of a flood comes out or is counted, and what waits is bounded.
#[tokio::test]
async fn a_flood_is_read_as_fast_as_it_comes() {
    const LINES: usize = 400_000;
    let temp = Temp::new();
    let (mut worker, pipe) = make_pipe(&temp.0.join("out"), None).unwrap();
    let (logs, written) = logs(policy(None));
    let (_exited, exited_in) = watch::channel(false);
    let reading =
        tokio::spawn(read(rest(pipe), logs.feed(&id("x", 0), 1, Generation(1), Stream::Out), None, ends(exited_in)));
    tokio::task::spawn_blocking(move || {
        let line = [[b'y'; 99].as_slice(), b"\n"].concat();
        (0..LINES / 100).for_each(|_| worker.write_all(&line.repeat(100)).unwrap());
    });
    timeout(LIMIT, reading).await.unwrap().unwrap();
    logs.close(LIMIT);
    let text = text(&written);
    let came = text.lines().filter(|line| line.ends_with("yyy")).count();
    let [(_, dropped)] = logs.dropped()[..] else { panic!() };
    assert_eq!(came + dropped as usize, LINES);
}

#[test]
fn a_non_blocking_standard_output_is_waited_for() {
    let (mut reader, writer) = io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut stdout = writer::Stdout::of(file);
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        got.len()
    });
    stdout.write(Path::new(""), &vec![b'x'; 1 << 20], SystemTime::now()).unwrap();
    drop(stdout);
    assert_eq!(reading.join().unwrap(), 1 << 20);
}

#[test]
fn busy_streams_gather_and_quiet_ones_do_not_wait() {
    let mut pace = Pace::new(1 << 20);
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    assert_eq!(pace.after(100, at(0)), None);
    assert!(pace.after(100, at(1)).is_some());
    assert_eq!(pace.after(CHUNK, at(2)), None, "much is there: go on at once");
    assert_eq!(pace.after(100, at(100)), None);
    assert_eq!(pace.after(0, at(100)), None, "the end");
    // A FIFO that could not be enlarged has no room to wait.
    let mut small = Pace::new(65536);
    assert!((0..3).all(|ms| small.after(100, at(ms)).is_none()));
}

#[test]
fn stdout_has_the_last_word_where_it_alone_tells_the_cause() {
    let words = |out: &str, err: &str| {
        let words = LastWords::default();
        for (text, stream) in [(out, Stream::Out), (err, Stream::Err)] {
            text.lines().for_each(|line| words.of(stream).push(line.as_bytes()));
        }
        words.lines()
    };
    assert_eq!(words("up", "bye"), ["bye"]);
    assert_eq!(words("up", ""), ["up"]);
    assert_eq!(words("Error: no database", "Warning: old"), ["Error: no database"]);
    assert_eq!(words("ERROR no luck", "Error: no database"), ["Error: no database"]);
    assert_eq!(words("Error: no database", "npm error code 1"), ["Error: no database"]);
}

#[test]
fn the_last_words_are_bounded() {
    let tail = Tail::default();
    (0..200).for_each(|n| tail.push(format!("{n} {}", "é".repeat(1000)).as_bytes()));
    let lines = tail.lines();
    assert_eq!(lines.len(), 50);
    assert!(lines[0].starts_with("150 ") && lines.iter().all(|line| line.len() <= 512 && !line.contains('\u{fffd}')));
}

fn rest(pipe: Pipe) -> Rest {
    Rest { pipe, partial: Vec::new() }
}

fn ends(exited: watch::Receiver<bool>) -> Ends {
    Ends { exited, hush: watch::channel(false).1 }
}

async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap();
}

#[tokio::test]
async fn a_hushed_reader_gives_back_its_partial_line_and_another_reads_on() {
    let temp = Temp::new();
    let path = temp.0.join("fifo");
    let (mut worker, pipe) = make_pipe(&path, None).unwrap();
    let (logs, written) = logs(policy(None));
    let feed = || logs.feed(&id("x", 0), 1, Generation(1), Stream::Out);
    let (_exited, exited_in) = watch::channel(false);
    let (hush, hush_in) = watch::channel(false);
    let both = Ends { exited: exited_in, hush: hush_in };
    worker.write_all(b"whole\nbegin").unwrap();
    let reading = tokio::spawn(read(rest(pipe), feed(), None, both.clone()));
    until(|| text(&written).contains("whole")).await;
    hush.send_replace(true);
    let Rest { pipe, partial } = timeout(Duration::from_secs(10), reading).await.unwrap().unwrap().unwrap();
    assert_eq!(partial, b"begin");
    worker.write_all(b"ning\nlast").unwrap();
    drop(pipe);
    hush.send_replace(false);
    let again = Rest { pipe: open_reader(&path).unwrap(), partial };
    let reading = tokio::spawn(read(again, feed(), None, both));
    until(|| text(&written).contains("beginning")).await;
    drop(worker);
    assert!(timeout(Duration::from_secs(10), reading).await.unwrap().unwrap().is_none());
    logs.close(Duration::from_secs(10));
    let said = without_time(&text(&written));
    assert_eq!(said, ["x[0] 1 g1 out | whole", "x[0] 1 g1 out | beginning", "x[0] 1 g1 out | last"]);
}
