"""Socket.IO from Python: its session ids carry no tag, so the proxy learns their owners from the handshakes."""

import os

import socketio
from plain import app as plain

sio = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*")
app = socketio.ASGIApp(sio, plain)


@sio.event
async def connect(sid, environ):
    await sio.emit("hello", {"pid": os.getpid(), "id": sid}, to=sid)


@sio.event
async def echo(sid, data):
    return {"pid": os.getpid(), "data": data}
