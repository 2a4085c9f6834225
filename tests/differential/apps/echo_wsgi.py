"""Says what it has read of each request, and keeps account of all of them. WSGI folds the names of fields."""

import hashlib
import json
from urllib.parse import quote

from account import SERVER, note, report


def app(environ, start_response):
    if environ["PATH_INFO"] == "/report" and environ.get("HTTP_X_REPORT") == "yes":
        return answer(environ, start_response, report())
    case = environ.get("HTTP_X_CASE", "none")
    note(case, "begun")
    fields = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            fields += [key[5:].replace("_", "-").lower(), value]
    if "CONTENT_TYPE" in environ:
        fields += ["content-type", environ["CONTENT_TYPE"]]
    read = {"server": SERVER, "id": case, "method": environ["REQUEST_METHOD"], "target": environ["RAW_URI"],
            "version": environ["SERVER_PROTOCOL"][5:], "fields": fields,
            "scheme": environ["wsgi.url_scheme"], "mount": environ["SCRIPT_NAME"]}
    if environ.get("HTTP_X_MODE") not in ("early", "soon"):
        body = environ["wsgi.input"].read()
        # gunicorn does not say that a body was cut.
        if len(body) == int(environ.get("CONTENT_LENGTH") or len(body)):
            note(case, "ended")
        read |= {"length": len(body), "sha1": hashlib.sha1(body).hexdigest()}
    return answer(environ, start_response, read)


def answer(environ, start_response, read):
    text = json.dumps(read)
    echo = quote(text) if environ["REQUEST_METHOD"] == "HEAD" else "1"
    start_response("200 OK", [("X-Echo", echo), ("Content-Length", str(len(text)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [text.encode()]
