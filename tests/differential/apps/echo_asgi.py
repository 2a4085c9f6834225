"""Says what it has read of each request, and keeps account of all of them."""

import hashlib
import json
from urllib.parse import quote

from account import SERVER, note, report


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] != "http":
        return
    named = {name: value.decode("latin-1") for name, value in scope["headers"]}
    if scope["path"] == "/report" and named.get(b"x-report") == "yes":
        return await answer(scope, send, report())
    case = named.get(b"x-case", "none")
    note(case, "begun")
    target = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    fields = [part.decode("latin-1") for field in scope["headers"] for part in field]
    read = {"server": SERVER, "id": case, "method": scope["method"], "target": target,
            "version": scope["http_version"], "fields": fields}
    if named.get(b"x-mode") in ("early", "soon"):
        return await answer(scope, send, read)
    length, sha1 = 0, hashlib.sha1()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        sha1.update(message.get("body", b""))
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    note(case, "ended")
    await answer(scope, send, {**read, "length": length, "sha1": sha1.hexdigest()})


async def answer(scope, send, read):
    text = json.dumps(read)
    echo = quote(text) if scope["method"] == "HEAD" else "1"
    headers = [(b"x-echo", echo.encode()), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
