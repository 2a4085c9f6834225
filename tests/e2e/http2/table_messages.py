"""RFC 9113, sections 6 to 8, and RFC 7541: what single frames mean, compressed fields, requests as HTTP has them."""

import struct

from hpack.hpack import encode_integer

from cases import BAD, COMPRESSION, IGNORED, SIZE, Case, Outcome, acknowledged, answered, connection, headed, stream, told
from peer import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, HEADERS, PADDED, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
                  SETTINGS, WITH_PRIORITY, block, data, frame, get, goaway, headers, ping, post, request, reset, settings, string, window)
from table_frames import bytes_read

FLOW = connection(FLOW_CONTROL_ERROR)


def note_body(peer):
    """A step: what has come by now."""
    peer.noted = len(peer.stream(1).body)


def length(number, id=1):
    return lambda peer: None if len(peer.stream(id).body) == number else f'{len(peer.stream(id).body)} bytes'


def endless_body(peer):
    """More than any window, to a worker that does not read."""
    peer.send(post(1, '/hang?id=full&unread=1'))
    for _ in range(512):
        peer.send(data(b'x' * 16384))
        if peer.broken:
            break


PAD = b'\0' * 20

BODIES = [
    Case('6.1', 'DATA on stream 0', [data(b'x', 0)], BAD),
    Case('6.1', 'padded DATA', [post(), frame(DATA, PADDED | END_STREAM, 1, bytes([20]) + b'abc' + PAD)], answered(200), check=bytes_read(3)),
    Case('6.1', 'DATA that is padding only', [post(), frame(DATA, PADDED, 1, bytes([20]) + PAD), data(b'abc', end=True)], answered(200), check=bytes_read(3)),
    Case('6.1', 'padding as long as the DATA frame', [post(), frame(DATA, PADDED, 1, bytes([4]) + b'abc')], BAD, nginx=SIZE,
         note='nginx has FRAME_SIZE_ERROR for it'),
    Case('6.1', 'padded DATA without the length', [post(), frame(DATA, PADDED, 1)], BAD + SIZE),
    Case('6.1', 'padding that is not zero', [post(), frame(DATA, PADDED | END_STREAM, 1, b'\3abcxyz')], answered(200) + BAD, check=lambda peer: None if peer.goaway else bytes_read(3)(peer)),
    Case('6.2', 'padded HEADERS', [headers(request(), before=bytes([20]), after=PAD, flags=END_HEADERS | PADDED)], answered(200)),
    Case('6.2', 'padding as long as the HEADERS frame', [frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b'\x10' + b'\0' * 10)], BAD, nginx=SIZE,
         note='nginx has FRAME_SIZE_ERROR for it'),
    Case('6.2', 'HEADERS with a priority', [headers(request(), before=struct.pack('>IB', 0, 200), flags=END_HEADERS | WITH_PRIORITY)], answered(200)),
    Case('6.2', 'HEADERS that depend on themselves', [headers(request(), before=struct.pack('>IB', 1, 200), flags=END_HEADERS | WITH_PRIORITY)],
         stream(PROTOCOL_ERROR) + BAD + answered(200), note='an error in RFC 7540; 9113 has no priorities any more'),
    Case('6.3', 'PRIORITY on stream 0', [frame(PRIORITY, 0, 0, struct.pack('>IB', 1, 1))], BAD),
    Case('6.3', 'PRIORITY that depends on itself', [frame(PRIORITY, 0, 1, struct.pack('>IB', 1, 1))], stream(PROTOCOL_ERROR) + BAD + IGNORED,
         note='an error in RFC 7540; 9113 has no priorities any more'),
    Case('6.4', 'RST_STREAM on stream 0', [reset(0)], BAD),
]

CONTROL = [
    Case('6.5', 'SETTINGS are acknowledged', [settings((3, 10)), settings((3, 20)), acknowledged], IGNORED,
         check=lambda peer: None if peer.acks == 3 else f'{peer.acks} of 3 acknowledged'),
    Case('6.5', 'SETTINGS on stream 1', [frame(SETTINGS, 0, 1)], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('6.5', 'SETTINGS that acknowledge and say something', [frame(SETTINGS, ACK, 0, b'\0\3\0\0\0\1')], SIZE, proxy=BAD, note='h2 has the general code'),
    Case('6.5', 'an acknowledgement of nothing', [frame(SETTINGS, ACK)], IGNORED + BAD, note='not said by the RFC'),
    Case('6.5.2', 'a setting that nobody knows', [settings((0xabc, 1))], IGNORED),
    Case('6.5.2', 'ENABLE_PUSH of 2', [settings((2, 2))], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('6.5.2', 'INITIAL_WINDOW_SIZE of 2^31', [settings((4, 1 << 31))], FLOW, proxy=BAD, note='h2 has the general code'),
    Case('6.5.2', 'MAX_FRAME_SIZE of 16,383', [settings((5, 16383))], BAD),
    Case('6.5.2', 'MAX_FRAME_SIZE of 2^24', [settings((5, 1 << 24))], BAD),
    Case('6.5.2', 'MAX_FRAME_SIZE that is allowed: no larger frame comes', [settings((5, 20000)), get(1, '/big?kib=60'), told(1)], answered(200),
         check=lambda peer: None if peer.largest <= 20000 else f'a frame of {peer.largest} bytes'),
    Case('6.9.2', 'a window of 0 that opens by SETTINGS', [get(1, '/big?kib=8'), headed(1), acknowledged, note_body, settings((4, 65535)), told(1)], answered(200),
         opening=[(4, 0)], check=lambda peer: f'{peer.noted} bytes in a window of 0' if peer.noted else length(8192)(peer)),
    Case('6.9.2', 'a window of 0 that opens by WINDOW_UPDATE', [get(1, '/big?kib=8'), headed(1), acknowledged, note_body, window(1, 8192), told(1), settings((4, 65535))],
         answered(200), opening=[(4, 0)], check=lambda peer: f'{peer.noted} bytes in a window of 0' if peer.noted else length(8192)(peer)),
    Case('6.9.2', 'a window of 1 byte that opens byte by byte', [get(1, '/status?code=200'), headed(1), *[window(1, 1)] * 9, told(1), settings((4, 65535))], answered(200), opening=[(4, 1)], check=length(10)),
    Case('6.9.2', 'SETTINGS that make a window too large', [post(), window(1, 2**31 - 1 - 65535), settings((4, 70000))], FLOW, nginx=stream(FLOW_CONTROL_ERROR), note='nginx makes it an error of the stream'),
    Case('6.6', 'PUSH_PROMISE from a client', [post(), frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack('>I', 2) + block(request()))], BAD),
    Case('6.7', 'PING is answered', [ping(b'abcdefgh'), acknowledged], IGNORED, check=lambda peer: None if b'abcdefgh' in peer.pongs else 'no answer to PING'),
    Case('6.7', 'PING on stream 1', [ping(stream=1)], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('6.7', 'an answer to no PING', [ping(b'unasked!', ACK), acknowledged], IGNORED,
         check=lambda peer: 'answered' if b'unasked!' in peer.pongs else None),
    Case('6.8', 'GOAWAY on stream 1', [goaway(stream=1)], BAD, nginx=IGNORED, note='nginx overlooks it'),
    Case('6.8', 'GOAWAY: the request on its way is answered', [get(1, '/slow?ms=300'), acknowledged, goaway(), told(1)],
         [Outcome('answered 200', lambda peer: peer.stream(1).status == 200 and peer.stream(1).ended)]),
    Case('6.8', 'GOAWAY with an unknown code and a word about it', [get(1, '/slow?ms=300'), acknowledged, goaway(0, 0xabc, b'because'), told(1)],
         [Outcome('answered 200', lambda peer: peer.stream(1).status == 200 and peer.stream(1).ended), Outcome('closed', lambda peer: peer.closed)]),
    Case('6.9', 'WINDOW_UPDATE of 0 on the connection', [window(0, 0)], BAD),
    Case('6.9', 'WINDOW_UPDATE of 0 on a stream', [post(1, '/upload'), window(1, 0)], stream(PROTOCOL_ERROR) + BAD),
    Case('6.9.1', 'a window of the connection over 2^31-1', [window(0, 2**31 - 1)], FLOW),
    Case('6.9.1', 'a window of a stream over 2^31-1', [post(), window(1, 2**31 - 1)], stream(FLOW_CONTROL_ERROR) + FLOW),
    Case('6.9.1', 'more DATA than the window holds', [endless_body], stream(FLOW_CONTROL_ERROR) + FLOW, free=[1], timeout=10),
    Case('6.10', 'HEADERS in four pieces', [frame(HEADERS, END_STREAM, 1, block(request())[:5]), frame(CONTINUATION, 0, 1, block(request())[5:9]),
                                            frame(CONTINUATION, 0, 1), frame(CONTINUATION, END_HEADERS, 1, block(request())[9:])], answered(200)),
    Case('6.10', 'CONTINUATION on stream 0', [frame(HEADERS, END_STREAM, 1, block(request())), frame(CONTINUATION, END_HEADERS, 0)], BAD),
    Case('6.10', 'CONTINUATION after the end of the block', [post(), frame(CONTINUATION, END_HEADERS, 1, block([('a', 'b')]))], BAD),
    Case('6.10', 'DATA inside a header block', [frame(HEADERS, 0, 1, block(request())), data(b'x')], BAD),
]


def packed(tail=b'', lead=b''):
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, lead + block(request()) + tail)


def indexed(peer):
    """Two requests by an encoder with a table; the second one refers to it."""
    fields = request(more=[('x-long', 'a' * 100)])
    for number in (1, 3):
        raw = peer.encoder.encode(fields, huffman=True)
        peer.send(frame(HEADERS, END_HEADERS | END_STREAM, number, raw))
        told(number)(peer)


GENERAL = 'h2 has the general code for fields that do not decode'
PADDING = f'{GENERAL}; nginx overlooks it'

# RFC 7541.
FIELDS = [
    Case('7541-2.3', 'the dynamic table and Huffman over two requests', [indexed], answered(200) , check=lambda peer: None if peer.stream(3).status == 200 else 'the second one is not answered'),
    Case('7541-6.2.3', 'fields that no table may take in', [frame(HEADERS, END_HEADERS | END_STREAM, 1, b''.join(b'\x10' + string(a) + string(b) for a, b in request()))], answered(200)),
    Case('7541-6.1', 'index 0', [packed(b'\x80')], COMPRESSION, proxy=BAD, note=GENERAL),
    Case('7541-2.3.3', 'an index that no table has', [packed(bytes(encode_integer(200, 7, )).replace(b'\x7f', b'\xff', 1))], COMPRESSION, proxy=BAD, note=GENERAL),
    Case('7541-5.1', 'an integer that does not end', [packed(b'\xff' + b'\xff' * 20)], COMPRESSION, proxy=BAD, note=GENERAL),
    Case('7541-5.2', 'a string longer than its block', [packed(b'\x00\x01a\x40abc')], COMPRESSION, proxy=BAD, nginx=SIZE, note='h2 has the general code for fields that do not decode, nginx that of the frame'),
    Case('7541-5.2', 'Huffman padding of a whole byte', [packed(b'\x00\x01a\x82\x1f\xff')], COMPRESSION, proxy=BAD, nginx=answered(200), note=PADDING),
    Case('7541-5.2', 'Huffman padding of zeros', [packed(b'\x00\x01a\x81\x18')], COMPRESSION, proxy=BAD, nginx=answered(200), note=PADDING),
    Case('7541-5.2', 'the end sign of Huffman', [packed(b'\x00\x01a\x84\xff\xff\xff\xff')], COMPRESSION, proxy=BAD, note=GENERAL),
    Case('7541-4.2', 'a table size that is allowed', [packed(lead=b'\x3f\xe1\x1f')], answered(200)),
    Case('7541-6.3', 'a table size over the limit', [packed(lead=b'\x3f\xe1\xff\x03')], COMPRESSION, proxy=BAD, note=GENERAL),
    Case('7541-4.2', 'a table size after a field', [packed(b'\x20')], COMPRESSION, proxy=BAD, nginx=answered(200), note=PADDING),
    Case('7541-4.2', 'HEADER_TABLE_SIZE 0: answers without a table', [get(), told(1), get(3), told(3)], answered(200), opening=[(1, 0)],
         check=lambda peer: None if not peer.decoder.header_table.dynamic_entries else 'the answer uses the table'),
]

TABLE = BODIES + CONTROL + FIELDS
