"""A client of HTTP/2 that says what it is told, right or wrong, and writes down what comes back."""

import socket
import struct
import time

from hpack import Decoder, Encoder, HPACKError
from hpack.hpack import encode_integer
from hyperframe import frame as frames

PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM,
 CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
CODES = ['NO_ERROR', 'PROTOCOL_ERROR', 'INTERNAL_ERROR', 'FLOW_CONTROL_ERROR', 'SETTINGS_TIMEOUT', 'STREAM_CLOSED', 'FRAME_SIZE_ERROR',
         'REFUSED_STREAM', 'CANCEL', 'COMPRESSION_ERROR', 'CONNECT_ERROR', 'ENHANCE_YOUR_CALM']


def code_name(code):
    return CODES[code] if code < len(CODES) else hex(code)


# --- what is sent: bytes, without state, so that rows of a table can hold it

def frame(kind, flags=0, stream=0, body=b'', length=None):
    """Any frame; `length` may lie."""
    size = len(body) if length is None else length
    return struct.pack('>I', size)[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + body


def string(text):
    raw = text if isinstance(text, bytes) else text.encode('latin1')
    return bytes(encode_integer(len(raw), 7)) + raw


def block(fields):
    """A header block of literals that no table takes in."""
    return b''.join(b'\x00' + string(name) + string(value) for name, value in fields)


def request(path='/pid', method='GET', scheme='http', authority='app.example', more=()):
    """The fields of a request; a pseudo field that is None is left out."""
    pseudo = [(':method', method), (':scheme', scheme), (':path', path), (':authority', authority)]
    return [field for field in pseudo if field[1] is not None] + list(more)


def headers(fields, stream=1, end=True, flags=END_HEADERS, before=b'', after=b''):
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream, before + block(fields) + after)


def get(stream=1, path='/pid', more=()):
    return headers(request(path, more=more), stream)


def post(stream=1, path='/upload', more=(), end=False):
    return headers(request(path, 'POST', more=more), stream, end)


def data(body=b'', stream=1, end=False):
    return frame(DATA, END_STREAM if end else 0, stream, body)


def settings(*pairs):
    return frame(SETTINGS, 0, 0, b''.join(struct.pack('>HI', key, value) for key, value in pairs))


def window(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack('>I', increment))


def reset(stream=1, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack('>I', code))


def goaway(last=0, code=NO_ERROR, debug=b'', stream=0):
    return frame(GOAWAY, 0, stream, struct.pack('>II', last, code) + debug)


def ping(body=b'12345678', flags=0, stream=0):
    return frame(PING, flags, stream, body)


# --- what comes back

class Stream:
    def __init__(self):
        self.status = self.reset = None
        self.head, self.trailers, self.body = [], None, b''
        self.informational = []
        self.ended = False

    def take_head(self, fields):
        status = dict(fields).get(':status')
        if status is None:
            self.trailers = fields
        elif status.startswith('1'):
            self.informational.append(int(status))
        else:
            self.status, self.head = int(status), fields

    def field(self, name):
        return next((value for key, value in self.head if key == name), None)


class Peer:
    """One connection. `heed` is whether windows are opened again, so that big answers flow."""

    def __init__(self, port, timeout=4.0, rcvbuf=None):
        self.socket = socket.socket()
        if rcvbuf:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.socket.settimeout(timeout)
        self.socket.connect(('127.0.0.1', port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.timeout = timeout
        self.raw = b''
        self.seen = b''
        self.streams, self.settings = {}, {}
        self.goaway, self.goaways = None, []
        self.acks, self.pongs = 0, []
        self.closed = self.broken = False
        self.decoder = Decoder()
        self.decoder.max_allowed_table_size = 65536
        self.encoder = Encoder()
        self.half = None
        self.heed = True
        self.largest = 0

    def stream(self, number):
        return self.streams.setdefault(number, Stream())

    def send(self, body):
        """What the other side has refused to take is no error of ours."""
        try:
            self.socket.settimeout(self.timeout)
            self.socket.sendall(body)
        except OSError:
            self.broken = True

    def open(self, *pairs):
        self.send(PREFACE + settings(*pairs))

    def read(self, until, timeout=None):
        """Reads until `until()` is true, the connection ends or the time is over; returns `until()`."""
        end = time.monotonic() + (timeout or self.timeout)
        while not until():
            left = end - time.monotonic()
            if self.closed or left <= 0:
                break
            self.socket.settimeout(left)
            try:
                got = self.socket.recv(65536)
            except TimeoutError:
                break
            except OSError:
                got = b''
            if not got:
                self.closed = True
            self.raw += got
            self.seen = (self.seen + got)[:200]
            self.take_frames()
        return until()

    def take_frames(self):
        while len(self.raw) >= 9 and not self.seen.startswith(b'HTTP/1'):
            found, length = frames.Frame.parse_frame_header(memoryview(self.raw[:9]))
            if len(self.raw) < 9 + length:
                return
            body = memoryview(self.raw[9:9 + length])
            self.raw = self.raw[9 + length:]
            self.largest = max(self.largest, length)
            found.parse_body(body)
            self.take(found)

    def take(self, found):
        number = found.stream_id
        if isinstance(found, (frames.HeadersFrame, frames.ContinuationFrame)):
            self.take_block(found, number)
        elif isinstance(found, frames.DataFrame):
            self.stream(number).body += found.data
            self.stream(number).ended |= 'END_STREAM' in found.flags
            if self.heed and found.flow_controlled_length:
                self.send(window(0, found.flow_controlled_length) + window(number, found.flow_controlled_length))
        elif isinstance(found, frames.RstStreamFrame):
            self.stream(number).reset = found.error_code
        elif isinstance(found, frames.GoAwayFrame):
            self.goaways.append((found.last_stream_id, found.error_code))
            if self.goaway in (None, NO_ERROR):
                self.goaway = found.error_code
        elif isinstance(found, frames.SettingsFrame):
            if 'ACK' in found.flags:
                self.acks += 1
            else:
                self.settings.update(found.settings)
                self.send(frame(SETTINGS, ACK))
        elif isinstance(found, frames.PingFrame):
            if 'ACK' in found.flags:
                self.pongs.append(bytes(found.opaque_data))
            else:
                self.send(ping(bytes(found.opaque_data), ACK))

    def take_block(self, found, number):
        first = isinstance(found, frames.HeadersFrame)
        self.half = (found.data if first else self.half[0] + found.data), 'END_STREAM' in found.flags if first else self.half[1]
        if 'END_HEADERS' not in found.flags:
            return
        try:
            self.stream(number).take_head([(str(name), str(value)) for name, value in self.decoder.decode(self.half[0])])
        except HPACKError as error:
            self.stream(number).take_head([(':status', '999'), ('hpack', str(error))])
        self.stream(number).ended |= self.half[1]

    def close(self):
        self.socket.close()
