"""Frames that are allowed one by one: very many of them; and silence where something is waited for.

Each flood has an end. It may be borne or ended; the table's proxy must be small and well afterwards (see http2-frames.test.mjs).
"""

import struct

from cases import BAD, CALM, CLOSED, COMPRESSION, IGNORED, Case, connection, status, told
from peer import (CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, NO_ERROR, PADDED, PREFACE, PRIORITY, block, data, frame, get, ping, post,
                  request, reset, settings, string, window)

ENDED = CALM + BAD + COMPRESSION + CLOSED
BORNE = IGNORED + ENDED
PIECE = 200


def flood(count, *frames):
    """A step: the frames so many times, in packets of some, until the other side has enough. Nothing is read meanwhile."""
    def step(peer):
        for _ in range(count // PIECE):
            peer.send(b''.join(frames) * PIECE)
            if peer.broken:
                return
    return step


def streams(count, *after, path='/hang?id=flood', first=1):
    """A step: so many streams one after another, each with what `after` makes for it."""
    def step(peer):
        for number in range(first, first + 2 * count, 2):
            peer.send(get(number, path) + b''.join(make(number) for make in after))
            if peer.broken:
                return
    return step


def bomb(peer):
    """A field of 4,000 bytes goes into the table once and is named 4,000 times: 16 MB in 20 KB."""
    entry = b'\x40' + string('x-bomb') + string('b' * 4000)
    raw = block(request()) + entry + b'\xbe' * 4000
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw))


OPEN = frame(HEADERS, END_STREAM, 1, block(request()))

FLOODS = [
    Case('10.5', '20,000 CONTINUATION frames with a field each', [OPEN, flood(20000, frame(CONTINUATION, 0, 1, block([('x-a', 'b')])))], ENDED),
    Case('10.5', '20,000 empty CONTINUATION frames', [OPEN, flood(20000, frame(CONTINUATION, 0, 1))], ENDED),
    Case('10.5', '3 MB of fields in one head', [OPEN, flood(200, frame(CONTINUATION, 0, 1, block([('x-a', 'b' * 16000)])))], ENDED),
    Case('10.5', 'a field named 4,000 times', [bomb], status(431) + ENDED),
    Case('10.5', '20,000 empty DATA frames', [post(), flood(20000, data(b''))], BORNE, free=[1]),
    Case('10.5', '20,000 DATA frames of padding', [post(), flood(20000, frame(DATA, PADDED, 1, b'\x00'))], BORNE, free=[1]),
    Case('10.5', '20,000 DATA frames of one byte', [post(), flood(20000, data(b'x'))], BORNE, free=[1]),
    Case('10.5', '20,000 SETTINGS', [flood(20000, settings((3, 100)))], BORNE, timeout=10),
    Case('10.5', '40,000 PING', [flood(40000, ping())], BORNE, timeout=10),
    Case('10.5', '20,000 PRIORITY', [flood(20000, frame(PRIORITY, 0, 1, struct.pack('>IB', 3, 1)))], BORNE),
    Case('10.5', '20,000 WINDOW_UPDATE of 1', [flood(20000, window(0, 1))], BORNE),
    Case('10.5', '20,000 frames of unknown type', [flood(20000, frame(0xfa, 0, 0, b'what'))], BORNE),
    Case('10.5', '2,000 changes of the window of 50 streams', [lambda peer: streams(50)(peer), flood(1000, settings((4, 0)), settings((4, 100000)))], BORNE,
         free=range(1, 101, 2), timeout=10),
    Case('10.5', '1,000 streams that are reset at once', [streams(1000, reset)], CALM, yardstick=False),
    Case('10.5', '3,000 streams that make the other side reset them', [streams(3000, lambda number: window(number, 2**31 - 1))], CALM + BAD, yardstick=False),
    Case('10.5', '1,000 requests with a length that is wrong',
         [lambda peer: [peer.send(post(number, more=[('content-length', '5')]) + data(b'abc', number, end=True)) for number in range(1, 2001, 2)]], BORNE + status(400, id=1999),
         note='none of them hangs'),
]

WAITS = 'Pingora has no time-out for a body by HTTP/2'

SILENCE = [
    Case('6.10', 'a header block that does not go on', [OPEN], CLOSED, probe=False, timeout=8, yardstick=False),
    Case('3.4', 'half a preface, and silence', [PREFACE[:10]], CLOSED, opens=False, probe=False, timeout=8, yardstick=False),
    Case('9.1', 'silence without a stream: GOAWAY NO_ERROR', [get(), told(1)], connection(NO_ERROR), probe=False, timeout=10, yardstick=False, pingora=CLOSED, note='Pingora closes without a word'),
    Case('8.1', 'a body that does not go on', [post(), data(b'abc')], status(408), timeout=8, yardstick=False, pingora=IGNORED, note=WAITS),
    Case('8.1', 'a body that does not begin', [post()], status(408), timeout=8, yardstick=False, pingora=IGNORED, note=WAITS),
]

TABLE = FLOODS + SILENCE
