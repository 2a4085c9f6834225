//! The stream over a socket that takes and gives as little as the test says.

use super::super::state::Buffers;
use super::super::stream::RecordStream;
use super::*;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Wire(Arc<Mutex<Sides>>);

#[derive(Default)]
struct Sides {
    arrived: VecDeque<u8>,
    ended: bool,
    /// What was taken to be sent, and how much more is taken now.
    sent: Vec<u8>,
    room: usize,
    shut: bool,
}

impl Wire {
    pub(super) fn with_room(room: usize) -> Wire {
        let wire = Wire::default();
        wire.make_room(room);
        wire
    }

    pub(super) fn arrive(&self, bytes: &[u8]) {
        self.0.lock().unwrap().arrived.extend(bytes);
    }

    pub(super) fn end(&self) {
        self.0.lock().unwrap().ended = true;
    }

    pub(super) fn make_room(&self, room: usize) {
        let mut sides = self.0.lock().unwrap();
        sides.room = sides.room.saturating_add(room);
    }

    pub(super) fn take_sent(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().sent)
    }

    fn is_shut(&self) -> bool {
        self.0.lock().unwrap().shut
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut sides = self.0.lock().unwrap();
        if sides.arrived.is_empty() && !sides.ended {
            return Poll::Pending;
        }
        let n = sides.arrived.len().min(out.remaining());
        out.put_slice(&sides.arrived.drain(..n).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut sides = self.0.lock().unwrap();
        let n = sides.room.min(data.len());
        if n == 0 {
            return Poll::Pending;
        }
        sides.room -= n;
        sides.sent.extend_from_slice(&data[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap().shut = true;
        Poll::Ready(Ok(()))
    }
}

pub(super) type Stream = RecordStream<Wire>;

pub(super) fn read(stream: &mut Stream, most: usize) -> Poll<io::Result<Vec<u8>>> {
    let mut room = vec![0; most];
    let mut out = ReadBuf::new(&mut room);
    let read = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut out);
    read.map_ok(|()| out.filled().to_vec())
}

pub(super) fn write(stream: &mut Stream, data: &[u8]) -> Poll<io::Result<usize>> {
    Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), data)
}

pub(super) fn flush(stream: &mut Stream) -> Poll<io::Result<()>> {
    Pin::new(stream).poll_flush(&mut Context::from_waker(Waker::noop()))
}

fn shutdown(stream: &mut Stream) -> Poll<io::Result<()>> {
    Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()))
}

pub(super) fn ready<T>(poll: Poll<io::Result<T>>) -> T {
    match poll {
        Poll::Ready(done) => done.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

fn error(poll: Poll<io::Result<Vec<u8>>>) -> io::ErrorKind {
    match poll {
        Poll::Ready(Err(error)) => error.kind(),
        other => panic!("{other:?}"),
    }
}

fn open(room: usize) -> (ClientConnection, Stream, Wire) {
    let (client, layer) = pair(Suite::Aes128Gcm);
    let wire = Wire::with_room(room);
    (client, RecordStream::new(wire.clone(), layer, Buffers::default()), wire)
}

#[test]
fn text_comes_as_it_was_sent_however_it_is_cut() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    let sent = text(1, 40_000);
    let bytes = say(&mut client, &sent);
    let mut got = Vec::new();
    for piece in bytes.chunks(777) {
        wire.arrive(piece);
        while let Poll::Ready(read) = read(&mut stream, 1000) {
            got.extend(read.unwrap());
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn small_records_come_together() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    for number in 0..100_u8 {
        wire.arrive(&say(&mut client, &[number; 3]));
    }
    assert_eq!(ready(read(&mut stream, 16 * 1024)).len(), 300);
}

#[test]
fn what_the_socket_does_not_take_waits_and_goes_first() {
    let (mut client, mut stream, wire) = open(10);
    assert_eq!(ready(write(&mut stream, b"first")), 5);
    assert!(stream.has_unsent());
    assert!(write(&mut stream, b"second").is_pending());
    assert!(flush(&mut stream).is_pending());
    wire.make_room(1);
    assert!(flush(&mut stream).is_pending());
    wire.make_room(usize::MAX);
    assert_eq!(ready(write(&mut stream, b"second")), 6);
    assert!(!stream.has_unsent());
    assert_eq!(receive(&mut client, &wire.take_sent()), b"firstsecond");
}

#[test]
fn the_end_is_said_once_and_reading_goes_on() {
    let (mut client, mut stream, wire) = open(3);
    assert!(shutdown(&mut stream).is_pending());
    assert!(!wire.is_shut());
    wire.make_room(usize::MAX);
    ready(shutdown(&mut stream));
    assert!(wire.is_shut());
    let sent = wire.take_sent();
    client.read_tls(&mut sent.as_slice()).unwrap();
    assert!(client.process_new_packets().unwrap().peer_has_closed());
    wire.arrive(&say(&mut client, b"still"));
    assert_eq!(ready(read(&mut stream, 100)), b"still");
    assert!(matches!(write(&mut stream, b"no more"), Poll::Ready(Err(_))));
}

#[test]
fn an_end_with_and_without_close_notify_is_an_end() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    let mut bytes = say(&mut client, b"last");
    client.send_close_notify();
    bytes.extend(sent(&mut client));
    wire.arrive(&bytes);
    assert_eq!(ready(read(&mut stream, 100)), b"last");
    assert_eq!(ready(read(&mut stream, 100)), b"");
    assert_eq!(ready(read(&mut stream, 100)), b"");
    let (mut client, mut stream, wire) = open(usize::MAX);
    wire.arrive(&say(&mut client, b"last"));
    wire.end();
    assert_eq!(ready(read(&mut stream, 100)), b"last");
    assert_eq!(ready(read(&mut stream, 100)), b"");
}

#[test]
fn an_end_within_a_record_is_an_error() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    let bytes = say(&mut client, b"cut off");
    wire.arrive(&bytes[..bytes.len() - 1]);
    assert!(read(&mut stream, 100).is_pending());
    wire.end();
    assert_eq!(error(read(&mut stream, 100)), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_came_before_a_bad_record_is_given_and_then_the_client_is_told() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    let good = say(&mut client, b"good");
    let mut bad = say(&mut client, b"bad");
    bad[7] ^= 4;
    wire.arrive(&[good, bad].concat());
    assert_eq!(ready(read(&mut stream, 100)), b"good");
    assert_eq!(error(read(&mut stream, 100)), io::ErrorKind::BrokenPipe);
    client.read_tls(&mut wire.take_sent().as_slice()).unwrap();
    let told = client.process_new_packets().unwrap_err();
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    assert!(stream.save().is_none(), "it cannot go on elsewhere, either");
}

#[test]
fn an_idle_stream_holds_no_buffer() {
    let (mut client, mut stream, wire) = open(usize::MAX);
    let bytes = say(&mut client, &text(3, 30_000));
    wire.arrive(&bytes[..20_000]);
    while read(&mut stream, 100).is_ready() {}
    assert_ne!(stream.held(), 0);
    wire.arrive(&bytes[20_000..]);
    while read(&mut stream, 100).is_ready() {}
    assert_eq!(ready(write(&mut stream, b"text")), 4);
    assert_eq!(stream.held(), 0);
}
