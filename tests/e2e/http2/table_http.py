"""RFC 9113, section 8: requests and answers as HTTP has them."""

import json

from cases import BAD, CALM, MALFORMED, OVER, Case, answered, headed, status, stream
from peer import CANCEL, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, INTERNAL_ERROR, NO_ERROR, STREAM_CLOSED, block, data, frame, get, headers, post, request
from table_frames import bytes_read


def seen(**want):
    """What the worker saw at /head: of the request itself, or of a field (x_y for x-y); None: not there."""
    def look(peer):
        try:
            found = json.loads(peer.stream(1).body)
        except ValueError:
            return f'not what /head says: {peer.stream(1).body[:80]}'
        for key, value in want.items():
            got = found[key] if key in ('method', 'url') else found['headers'].get(key.replace('_', '-'))
            if got != value:
                return f'{key} was {got!r}, not {value!r}'
        return None
    return look


def cookie(count, value):
    """The worker got so many cookie fields, with this value all together."""
    def look(peer):
        raw = json.loads(peer.stream(1).body)['raw']
        got = [text for name, text in zip(raw[::2], raw[1::2]) if name.lower() == 'cookie']
        return None if len(got) == count and '; '.join(got) == value else f'{len(got)} cookie fields: {got[:3]}'
    return look


def bad(name, path='/pid', more=(), section='8.2.1', expect=MALFORMED, **others):
    """A request by GET that has something wrong with it."""
    return Case(section, name, [headers(request(path, more=more))], expect, **others)


def fields(name, pseudo, section='8.3.1', expect=MALFORMED, **others):
    return Case(section, name, [headers(pseudo)], expect, **others)


# The crate refuses names, values, methods and unknown pseudo fields while it decodes: then for the whole connection.
CRATE = 'h2 makes it an error of the connection, as 5.4.1 allows'
LENIENT = 'nginx does not look at it'
BOTH = f'{CRATE}; {LENIENT}'

def no_fragment(peer):
    return seen(url='/head')(peer) if peer.stream(1).status == 200 else None


NAMES = [
    bad('an upper-case name', more=[('X-Upper', 'a')], proxy=BAD, note=CRATE),
    bad('an empty name', more=[('', 'a')], proxy=BAD, nginx=BAD, note=CRATE),
    bad('a space in a name', more=[('x a', 'b')], proxy=BAD, note=CRATE),
    bad('a colon in a name', more=[('x:a', 'b')], proxy=BAD, note=CRATE),
    bad('a byte over 127 in a name', more=[(b'x\xe9', 'b')], nginx=answered(200), proxy=BAD, note=BOTH),
    bad('a control character in a name', more=[(b'x\x01', 'b')], nginx=answered(200), proxy=BAD, note=BOTH),
    bad('NUL in a value', more=[('x-a', 'a\0b')], proxy=BAD, note=CRATE),
    bad('LF in a value', more=[('x-a', 'a\nx-b: c')], proxy=BAD, note=CRATE),
    bad('CR in a value', more=[('x-a', 'a\rb')], proxy=BAD, note=CRATE),
    bad('CR and LF in a path', path='/pid HTTP/1.1\r\nX-Smuggled: 1'),
    bad('a space at the end of a value', path='/head', more=[('x-a', 'a ')], nginx=answered(200), proxy=answered(200), check=lambda peer: None if peer.stream(1).status != 200 else seen(x_a='a')(peer),
        note='as HTTP/1 has it: who writes the field to a worker says the same value without it'),
    *[bad(f'the field {name}', more=[(name, value)], section='8.2.2', nginx=answered(200), note='nginx drops it') for name, value in
      [('connection', 'close'), ('keep-alive', 'timeout=5'), ('proxy-connection', 'keep-alive'), ('transfer-encoding', 'chunked'), ('upgrade', 'websocket')]],
    bad('te: gzip', more=[('te', 'gzip')], section='8.2.2', nginx=answered(200), note=LENIENT),
    Case('8.2.2', 'te: trailers', [get(more=[('te', 'trailers')])], answered(200)),
    Case('8.2.3', 'three cookie fields are one for the worker', [get(path='/head', more=[('cookie', 'a=1'), ('cookie', 'b=2'), ('cookie', 'c=3')])],
         answered(200), check=cookie(1, 'a=1; b=2; c=3'), nginx_check=True),
]

PSEUDO = [
    fields('no :method', request(method=None)),
    fields('no :scheme', request(scheme=None)),
    fields('no :path', request(path=None)),
    fields('an empty :path', request(path=''), nginx=BAD, note='nginx answers 400 and ends the connection'),
    fields('two :path', [(':path', '/other'), *request()]),
    fields('two :method', [(':method', 'GET'), *request()]),
    fields('two :authority', [(':authority', 'other.example'), *request()]),
    fields('a pseudo field that nobody knows', [(':unknown', '1'), *request()], proxy=BAD, note=CRATE),
    fields(':status in a request', [(':status', '200'), *request()]),
    fields('a pseudo field after a field', [*request(path=None), ('x-a', 'b'), (':path', '/pid')], section='8.3', nginx=answered(200), note=LENIENT),
    fields(':authority and host that differ', request(more=[('host', 'other.example')]), nginx=answered(200), note='nginx takes :authority'),
    fields(':authority and host alike', request(more=[('host', 'app.example')]), expect=answered(200), nginx=status(400), note='nginx wants one of them'),
    fields('host alone', request(authority=None, more=[('host', 'app.example')]), expect=answered(200)),
    fields('neither :authority nor host', request(authority=None), expect=MALFORMED + answered(200), note='may be, for a scheme that does not need it'),
    fields('userinfo in :authority', request(authority='user@app.example'), nginx=answered(200), note=LENIENT),
    fields('a space in :authority', request(authority='app.example x')),
    fields('a path without a slash', request(path='pid')),
    fields('a path with a scheme', request(path='http://app.example/pid')),
    fields('GET *', request(path='*')),
    fields('a fragment in :path', request(path='/head#x'), nginx=answered(200), proxy=answered(200), check=no_fragment, nginx_check=False,
           note='nginx passes it on; h2 drops it unseen, and the worker gets a path without it'),
    fields('OPTIONS *', request(path='*', method='OPTIONS'), expect=answered(200), check=seen(method='OPTIONS', url='*'), nginx_check=False, nginx=status(400), note='nginx knows no OPTIONS *'),
    fields('a space in :method', request(method='GET /x'), proxy=BAD, note=CRATE),
    fields('an empty :method', request(method=''), proxy=BAD, nginx=BAD, note=f'{CRATE}; nginx answers 400 and ends the connection'),
    fields('CONNECT', request(method='CONNECT', scheme=None, path=None, authority='127.0.0.1:22'), section='8.5', expect=MALFORMED + status(405) + status(501)),
    fields('CONNECT with a :path', request(method='CONNECT'), section='8.5', expect=MALFORMED + status(405) + status(501)),
    fields('CONNECT with :protocol, though it was not offered', [*request('/ws', 'CONNECT'), (':protocol', 'websocket')], section='8441',
           expect=MALFORMED + status(405) + status(501)),
]


def trailing(more, end=True):
    return headers(more, 1, end)


LENGTH = [('content-length', '5')]

TRAILERS = 'nginx ends the connection at any trailers'

LENGTHS = [
    Case('8.1.1', 'content-length, and as much DATA', [post(more=LENGTH), data(b'abcde', end=True)], answered(200), check=bytes_read(5)),
    Case('8.1.1', 'content-length, and less DATA', [post(more=LENGTH), data(b'abc', end=True)], MALFORMED),
    Case('8.1.1', 'content-length, and more DATA', [post(more=LENGTH), data(b'abcdefgh', end=True)], MALFORMED),
    Case('8.1.1', 'content-length, and no DATA', [post(more=LENGTH, end=True)], MALFORMED),
    Case('8.1.1', 'content-length, less DATA, and trailers', [post(more=LENGTH), data(b'abc'), trailing([('x-sum', '1')])], MALFORMED, nginx=BAD, note=TRAILERS),
    Case('8.1.1', 'two lengths', [post(more=[*LENGTH, ('content-length', '6')]), data(b'abcde', end=True)], MALFORMED),
    Case('8.1.1', 'a length that is no number', [post(more=[('content-length', '+5')]), data(b'abcde', end=True)], MALFORMED),
    Case('8.1.1', 'a length beyond 2^64', [post(more=[('content-length', '18446744073709551621')]), data(b'abcde', end=True)], MALFORMED + status(413)),
    Case('8.1', 'a body without a length', [post(), data(b'abc'), data(b'', end=True)], answered(200), check=bytes_read(3)),
    Case('8.1', 'a body in 100 pieces', [post(), *[data(b'x')] * 100, data(b'', end=True)], answered(200), check=bytes_read(100)),
    Case('8.1', 'a body in 1,500 pieces of one byte', [post(), data(b'x') * 1500, data(b'', end=True)], answered(200), check=bytes_read(1500)),
    Case('8.1', '40 empty pieces of a body', [post(), *[data(b'') + data(b'x')] * 40, data(b'', end=True)], answered(200), check=bytes_read(40)),
    Case('8.1', 'trailers', [post(), data(b'abc'), trailing([('x-sum', '1')])], answered(200), nginx=BAD, nginx_check=False, note=TRAILERS, check=bytes_read(3)),
    Case('8.1', 'trailers without the end of the stream', [post(), data(b'abc'), trailing([('x-sum', '1')], end=False)], MALFORMED + BAD),
    Case('8.1', 'a pseudo field among trailers', [post(), data(b'abc'), trailing([(':path', '/x')])], MALFORMED, proxy=answered(200), nginx=BAD, note=f'h2 drops it unseen; {TRAILERS}'),
    Case('8.1', 'an upper-case name among trailers', [post(), data(b'abc'), trailing([('X-Sum', '1')])], MALFORMED, proxy=BAD, nginx=BAD, note=f'{CRATE}; {TRAILERS}'),
    Case('8.1', 'a connection field among trailers', [post(), data(b'abc'), trailing([('transfer-encoding', 'chunked')])], MALFORMED + answered(200), nginx=BAD, note=TRAILERS),
    Case('8.1', 'DATA after trailers', [post(), data(b'abc'), trailing([('x-sum', '1')]), data(b'more', end=True)], stream(STREAM_CLOSED) + OVER + BAD),
]


def no_body(peer):
    one = peer.stream(1)
    return f'{len(one.body)} bytes of body' if one.body else None


def head_of(peer):
    return no_body(peer) or (None if peer.stream(1).field('content-length') == '8192' else f'content-length {peer.stream(1).field("content-length")}')


def informed(code):
    return lambda peer: None if code in peer.stream(1).informational else f'no {code} but {peer.stream(1).informational}'


CRUMBS = [('cookie', f'c{n}=0123456789') for n in range(150)]
MANY = [(f'x-{n}', 'v') for n in range(150)]

ANSWERS = [
    Case('8.1', 'HEAD', [headers(request('/big?kib=8', 'HEAD'))], answered(200), check=head_of),
    Case('8.1', 'an answer 204', [get(path='/status?code=204')], answered(204), check=no_body),
    Case('8.1', 'an answer 304', [get(path='/status?code=304')], answered(304), check=no_body),
    Case('8.1', 'an answer of 300 KiB, chunked by the worker', [get(path='/big?kib=300&chunked=1')], answered(200),
         check=lambda peer: f'{len(peer.stream(1).body)} bytes' if len(peer.stream(1).body) != 300 * 1024 else None),
    Case('8.1', 'no connection field in an answer', [get()], answered(200),
         check=lambda peer: next((f'{name} in the answer' for name, _ in peer.stream(1).head if name in ('connection', 'keep-alive', 'transfer-encoding')), None)),
    Case('8.1', 'expect: 100-continue', [post(more=[('expect', '100-continue')]), lambda peer: peer.read(lambda: peer.stream(1).informational, 1), data(b'abc', end=True)],
         answered(200), check=informed(100), nginx_check=False, pingora_check=False, note='Pingora and nginx keep it to themselves'),
    Case('8.1', '103 before the answer', [get(path='/early')], answered(200), check=informed(103), yardstick=False, pingora_check=False, note='Pingora drops it'),
    Case('8.1', 'an answer before the request is complete', [post(1, '/refuse'), data(b'abc'), headed(1)], status(413), free=[1]),
    Case('8.1', 'a worker that breaks off in its answer', [get(path='/cut')], stream(INTERNAL_ERROR), nginx=stream(NO_ERROR), pingora=stream(CANCEL), check=lambda peer: None if peer.stream(1).status == 200 else 'not begun',
         note='nginx has NO_ERROR for it, Pingora CANCEL'),
    Case('9110-6.5', 'over 100 fields', [headers(request(more=MANY))], status(431), nginx=answered(200), note='nginx has no limit but that of the bytes'),
    Case('9110-15.5', 'a field of 20 KiB', [frame(HEADERS, END_STREAM, 1, (raw := block(request(more=[('x-a', 'a' * 20480)])))[:16000]), frame(CONTINUATION, END_HEADERS, 1, raw[16000:])],
         status(431), nginx=CALM, note='nginx ends the connection'),
    Case('9110-15.5', 'a path of 20 KiB', [frame(HEADERS, END_STREAM, 1, (raw := block(request('/' + 'a' * 20480)))[:16000]), frame(CONTINUATION, END_HEADERS, 1, raw[16000:])],
         status(414) + status(431), nginx=CALM, note='nginx ends the connection'),
    Case('8.2.3', '90 cookie fields', [get(path='/head', more=CRUMBS[:90])], answered(200), check=cookie(1, '; '.join(value for _, value in CRUMBS[:90]))),
    Case('8.2.3', '150 cookie fields', [get(path='/head', more=CRUMBS)], answered(200) + status(431),
         note='for a worker they are one field, for the limit of 100 they may be 150'),
]

TABLE = NAMES + PSEUDO + LENGTHS + ANSWERS
