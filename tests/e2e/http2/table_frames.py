"""RFC 9113, sections 3 to 5: how a connection begins, the shape of frames, the states of streams."""

import struct

from cases import BAD, CLOSED, COMPRESSION, IGNORED, OVER, SIZE, Case, acknowledged, answered, connection, status, stream, told
from peer import (CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS,
                  STREAM_CLOSED, WINDOW_UPDATE, WITH_PRIORITY, block, data, frame, get, headers, ping, post, request, reset, settings, window)


def slowly(raw):
    """The bytes one by one, each in a packet of its own."""
    def step(peer):
        for at in range(len(raw)):
            peer.send(raw[at:at + 1])
    return step


def upgraded(peer):
    return None if peer.seen.startswith(b'HTTP/1.1 200') else f'answered {peer.seen[:40]}'


def bytes_read(number, id=1):
    want = f'"bytes":{number}'.encode()
    return lambda peer: None if want in peer.stream(id).body else f'the worker read {peer.stream(id).body[:80]}'


HTTP1 = b'GET /pid HTTP/1.1\r\nHost: app.example\r\n'
TO_H2C = b'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n'

FIRST = 'neither nginx nor h2 looks whether SETTINGS comes first'
GENERAL = 'h2 has the general code for frames of a wrong size'
LARGE = 'nginx allows larger frames'

PREFACES = [
    Case('3.4', 'the preface and an empty SETTINGS', [], IGNORED),
    Case('3.4', 'the preface byte by byte', [slowly(PREFACE + settings())], IGNORED, opens=False),
    Case('3.4', 'the preface, the first request and its body in one packet',
         [PREFACE + settings() + post() + data(b'x' * 100, end=True)], answered(200), opens=False, check=bytes_read(100)),
    Case('3.4', 'PING where SETTINGS should be', [PREFACE + ping()], BAD, opens=False, nginx=IGNORED, proxy=IGNORED, note=FIRST),
    Case('3.4', 'HEADERS where SETTINGS should be', [PREFACE + get()], BAD, opens=False, nginx=answered(200), proxy=answered(200), note=FIRST),
    Case('3.4', 'the preface twice', [PREFACE], SIZE + BAD, note='the second one reads as a frame of 5 MiB'),
    Case('3.4', 'a preface that ends otherwise', [b'PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n' + settings()], CLOSED, opens=False),
    Case('3.1', 'Upgrade: h2c in HTTP/1.1: no 101', [HTTP1 + TO_H2C + b'Connection: close\r\n\r\n'], CLOSED, opens=False, probe=False, check=upgraded,
         nginx_check=False),
]

SHAPES = [
    Case('4.1', 'a frame of unknown type on the connection', [frame(0xfa, 0, 0, b'what is it')], IGNORED),
    Case('4.1', 'a frame of unknown type on a stream', [post(), frame(0xfa, 0xff, 1, b'what'), data(b'abc', end=True)], answered(200), check=bytes_read(3)),
    Case('4.1', 'PRIORITY_UPDATE of RFC 9218', [frame(0x10, 0, 0, struct.pack('>I', 1) + b'u=0'), get()], answered(200)),
    Case('4.1', 'flags that PING does not have', [ping(flags=0xfe)], IGNORED,
         check=lambda peer: None if b'12345678' in peer.pongs else 'no answer to PING'),
    Case('4.1', 'the reserved bit before a stream id', [frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, block(request()))], answered(200)),
    Case('4.2', 'DATA of 16,384 bytes', [post(), data(b'x' * 16384, end=True)], answered(200), check=bytes_read(16384)),
    Case('4.2', 'DATA of 16,385 bytes', [post(), data(b'x' * 16385)], SIZE + stream(6), nginx=stream(PROTOCOL_ERROR), note=LARGE),
    Case('4.2', 'HEADERS of 16,385 bytes', [frame(HEADERS, END_HEADERS | END_STREAM, 1, block(request()).ljust(16385, b'\0'))], SIZE, nginx=BAD, note=LARGE),
    Case('4.2', 'SETTINGS of 5 bytes', [frame(SETTINGS, 0, 0, b'\0\3\0\0\0')], SIZE, proxy=BAD, note=GENERAL),
    Case('4.2', 'PING of 7 bytes', [ping(b'1234567')], SIZE, proxy=BAD, note=GENERAL),
    Case('4.2', 'RST_STREAM of 3 bytes', [post(), frame(RST_STREAM, 0, 1, b'\0\0\0')], SIZE, proxy=BAD, note=GENERAL),
    Case('4.2', 'WINDOW_UPDATE of 3 bytes', [frame(WINDOW_UPDATE, 0, 0, b'\0\0\1')], SIZE, proxy=BAD, note=GENERAL),
    Case('4.2', 'PRIORITY of 4 bytes', [post(), frame(PRIORITY, 0, 1, b'\0\0\0\0')], stream(6) + SIZE, proxy=BAD,
         note='a stream error (6.3), which may be raised to one of the connection (5.4.1); h2 has the general code'),
    Case('4.2', 'GOAWAY of 4 bytes', [frame(GOAWAY, 0, 0, b'\0\0\0\0')], SIZE, proxy=BAD, note=GENERAL),
    Case('4.2', 'HEADERS with priority, of 4 bytes', [frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, b'\0\0\0\0')], SIZE + BAD + COMPRESSION),
    Case('4.3', 'an unknown frame inside a header block', [frame(HEADERS, END_STREAM, 1, block(request())), frame(0xfa, 0, 0, b'x'), frame(CONTINUATION, END_HEADERS, 1)], BAD),
    Case('4.3', 'PING inside a header block', [frame(HEADERS, END_STREAM, 1, block(request())), ping(), frame(CONTINUATION, END_HEADERS, 1)], BAD),
    Case('4.3', 'HEADERS of another stream inside a header block', [frame(HEADERS, END_STREAM, 1, block(request())), get(3)], BAD),
    Case('4.3', 'CONTINUATION of another stream', [frame(HEADERS, END_STREAM, 1, block(request())), frame(CONTINUATION, END_HEADERS, 3)], BAD),
    Case('4.3', 'RST_STREAM inside a header block', [frame(HEADERS, END_STREAM, 1, block(request())), reset(1), frame(CONTINUATION, END_HEADERS, 1)], BAD),
]

HANG = get(1, '/hang?id=frames')
# It has begun to answer, and waits for its body's end.
ECHO = post(1, '/echo')

STATES = [
    Case('5.1', 'DATA on an idle stream', [data(b'x')], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('5.1', 'RST_STREAM on an idle stream', [reset(1)], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('5.1', 'WINDOW_UPDATE on an idle stream', [window(1, 1)], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('5.1', 'CONTINUATION without HEADERS', [frame(CONTINUATION, END_HEADERS, 1, block(request()))], BAD),
    Case('5.1', 'PRIORITY on an idle stream', [frame(PRIORITY, 0, 5, struct.pack('>IB', 0, 15))], IGNORED),
    Case('5.1', 'PRIORITY on a stream that is done', [get(), told(1), frame(PRIORITY, 0, 1, struct.pack('>IB', 0, 15))], IGNORED),
    Case('5.1', 'WINDOW_UPDATE on a stream that is done', [get(), told(1), window(1, 10)], IGNORED),
    Case('5.1', 'RST_STREAM on a stream that is done', [get(), told(1), reset(1)], IGNORED),
    Case('5.1', 'DATA on a stream whose request is complete', [HANG, acknowledged, data(b'x')], stream(STREAM_CLOSED) + OVER, proxy=BAD,
         note='5.4.1 lets it be an error of the connection; h2 has the general code for it'),
    Case('5.1', 'HEADERS on a stream whose request is complete', [HANG, acknowledged, get(1)], stream(STREAM_CLOSED) + OVER + BAD,
         note='the same id twice is a connection error too (5.1.1)'),
    Case('5.1', 'DATA on a stream that is done', [get(), told(1), data(b'x', end=True)], stream(STREAM_CLOSED) + OVER, nginx=IGNORED, note='nginx overlooks it'),
    Case('5.1', 'HEADERS on a stream that is done', [get(), told(1), get()], OVER + BAD + stream(STREAM_CLOSED)),
    Case('5.1', 'DATA on a stream that we have reset', [ECHO, acknowledged, reset(1), data(b'x')], stream(STREAM_CLOSED) + OVER + IGNORED,
         note='5.1 lets a receiver ignore frames for a short time after a reset'),
    Case('5.1', 'HEADERS on a stream that we have reset', [HANG, acknowledged, reset(1), acknowledged, get()], stream(STREAM_CLOSED) + OVER + BAD),
    Case('5.1.1', 'an even stream id', [get(2)], BAD),
    Case('5.1.1', 'a stream id lower than one before', [get(5), told(5), get(3)], BAD + OVER),
    Case('5.1.1', 'HEADERS on stream 0', [headers(request(), 0)], BAD),
    Case('5.1.1', 'the highest stream id', [get(PROBE_LIMIT := 2**31 - 1), told(PROBE_LIMIT)], status(200, id=PROBE_LIMIT) + connection(PROTOCOL_ERROR),
         note='the probe that follows has a lower id: an error of the connection', check=lambda peer: None if peer.stream(2**31 - 1).status == 200 else 'not answered'),
    Case('5.1.2', 'a stream more than SETTINGS_MAX_CONCURRENT_STREAMS allows', [
        acknowledged, lambda peer: peer.send(b''.join(get(2 * n + 1, '/hang?id=many') for n in range(peer.settings.get(3, 100)))),
        acknowledged, get(999), told(999)], stream(REFUSED_STREAM, id=999), free=[2 * n + 1 for n in range(50)]),
]

TABLE = PREFACES + SHAPES + STATES
