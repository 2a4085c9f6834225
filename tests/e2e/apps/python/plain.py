"""A tiny ASGI app: which process answers, what it saw, what was sent to it."""

import asyncio
import hashlib
import json
import os
from urllib.parse import parse_qs


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    query = parse_qs(scope["query_string"].decode())
    await asyncio.sleep(float(query.get("ms", ["0"])[0]) / 1000)
    if scope["path"] == "/pid":
        answer = str(os.getpid())
    else:
        answer = json.dumps({
            "pid": os.getpid(),
            "slot": os.environ.get("NODE_APP_INSTANCE"),
            "sha256": hashlib.sha256(body).hexdigest(),
            "headers": {k.decode(): v.decode() for k, v in scope["headers"]},
            "client": scope.get("client"),
        })
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": answer.encode()})
