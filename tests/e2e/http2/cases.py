"""A row of the table, what it may expect, and how it is run.

A row sends its steps, then asks for /pid on another stream: the answer shows that the connection has lived on.
"""

from dataclasses import dataclass
from typing import Any, Callable

from peer import CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, Peer, code_name, get, reset

PROBE = 20001


@dataclass
class Case:
    section: str
    name: str
    steps: list
    expect: list
    # What else they may do, and why: either may, or one of them is known to be wrong. `expect` is the RFC's word.
    nginx: list = ()
    proxy: list = ()
    # And what Pingora does where it carries HTTP/2 (`server: {http: pingora}`, or apps with `protocol: http2`).
    pingora: list = ()
    note: str = ''
    # False: the steps begin with the preface themselves.
    opens: bool = True
    opening: tuple = ()
    timeout: float = 4.0
    # Streams that hang: reset before the probe.
    free: tuple = ()
    # False: nothing more is said after the steps.
    probe: bool = True
    # Whether nginx is asked at all.
    yardstick: bool = True
    # Further demands on what came back; a function that returns what is wrong, or nothing.
    check: Callable[[Peer], Any] = None
    nginx_check: bool = True
    pingora_check: bool = True


@dataclass
class Outcome:
    """One thing that may come back."""
    name: str
    holds: Callable[[Peer], bool]


def alive(peer):
    return peer.stream(PROBE).status == 200 and peer.stream(PROBE).ended


def untouched(peer):
    return all(stream.reset in (None, NO_ERROR) for stream in peer.streams.values())


def connection(*codes):
    """A connection error: GOAWAY with one of these codes, and the end."""
    return [Outcome(f'connection {code_name(code)}', lambda peer, code=code: peer.goaway == code and peer.closed) for code in codes]


def stream(*codes, id=1):
    """A stream error: RST_STREAM, and everything else goes on."""
    return [Outcome(f'stream {code_name(code)}', lambda peer, code=code: peer.stream(id).reset == code and alive(peer)) for code in codes]


def status(*codes, id=1):
    return [Outcome(f'status {code}', lambda peer, code=code: peer.stream(id).status == code and alive(peer)) for code in codes]


def answered(*codes, id=1):
    """A whole answer, without a reset."""
    return [Outcome(f'answered {code}', lambda peer, code=code: peer.stream(id).status == code and peer.stream(id).ended
                    and untouched(peer) and alive(peer)) for code in codes]


IGNORED = [Outcome('ignored', lambda peer: alive(peer) and untouched(peer) and peer.goaway is None)]
CLOSED = [Outcome('closed', lambda peer: peer.closed)]
CALM = connection(ENHANCE_YOUR_CALM)
# A malformed request (8.1.1): a stream error, or an answer that says so.
MALFORMED = stream(PROTOCOL_ERROR) + status(400)
BAD = connection(PROTOCOL_ERROR)
SIZE = connection(FRAME_SIZE_ERROR)
COMPRESSION = connection(COMPRESSION_ERROR)
OVER = connection(STREAM_CLOSED)


def told(number, timeout=None):
    """A step: waits for the end of a stream."""
    def step(peer):
        peer.read(lambda: peer.stream(number).ended or peer.stream(number).reset is not None, timeout)
    return step


def headed(number):
    """A step: waits for the head of an answer."""
    def step(peer):
        peer.read(lambda: peer.stream(number).status is not None or peer.stream(number).reset is not None)
    return step


def acknowledged(peer):
    """A step: what was sent so far has been read."""
    pongs = len(peer.pongs)
    peer.send(b'\x00\x00\x08\x06\x00\x00\x00\x00\x00barrier!')
    peer.read(lambda: len(peer.pongs) > pongs)


def describe(peer):
    said = []
    if peer.goaway is not None:
        said.append(f'GOAWAY {code_name(peer.goaway)}')
    for number, one in sorted(peer.streams.items()):
        if number == PROBE or len(said) > 8:
            continue
        if one.status is not None:
            said.append(f'{number}: {one.status}{"" if one.ended else " unfinished"}')
        if one.reset is not None:
            said.append(f'{number}: RST_STREAM {code_name(one.reset)}')
    if peer.seen.startswith(b'HTTP/1'):
        said.append(peer.seen.split(b'\r\n')[0].decode('latin1'))
    said.append('alive' if alive(peer) else 'closed' if peer.closed else 'silent')
    return ', '.join(said)


def run(case, port, against='proxy'):
    """Returns (how it passed or '', what came back, what was expected)."""
    allowed = {'nginx': case.nginx, 'proxy': case.proxy, 'pingora': [*case.proxy, *case.pingora]}[against]
    checked = {'nginx': case.nginx_check, 'proxy': True, 'pingora': case.pingora_check}[against]
    expect = [*case.expect, *allowed]
    peer = Peer(port, case.timeout)
    try:
        if case.opens:
            peer.open(*case.opening)
        for step in case.steps:
            step(peer) if callable(step) else peer.send(step)
        for number in case.free:
            peer.send(reset(number, CANCEL))
        if case.probe:
            peer.send(get(PROBE))
        peer.read(lambda: any(outcome.holds(peer) for outcome in expect))
        passed = next((outcome for outcome in expect if outcome.holds(peer)), None)
        wrong = case.check(peer) if passed and case.check and checked else None
        wanted = ' or '.join(outcome.name for outcome in expect)
        how = '' if not passed or wrong else 'ok' if passed in case.expect and (checked or not case.check) else 'differs'
        return how, describe(peer) + (f'; {wrong}' if wrong else ''), wanted
    finally:
        peer.close()
