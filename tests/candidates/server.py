"""A server on loopback that speaks OpenAI's chat protocol and misbehaves as it is told."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, finish="stop"):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]}


def stream(*pieces, finish="stop"):
    """The body of a streamed answer, as bytes."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    if finish:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b": hello\n\n" + b"".join(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks) + b"data: [DONE]\n\n"


class Server:
    """Plays a list of answers as ``answer`` makes them, the last again and again; or asks a function of the body."""

    def __init__(self, *script):
        self.script = list(script)
        self.requests = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def take(self, request):
        with self._lock:
            self.requests.append(request)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if callable(self.script[0]):
                return self.script[0](request[2])
            return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    def leave(self):
        with self._lock:
            self.at_once -= 1


def answer(body, status=200, headers=(), drip=0.0, delay=0.0, head_drip=0.0):
    """One entry of a server's script; the body is bytes, or plain data to be written as JSON; no status: no answer.

    ``delay`` seconds pass before the head, ``head_drip`` and ``drip`` between bytes of the head and of the body.
    """
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return status, dict(headers), payload, drip, delay, head_drip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, payload, drip, delay, head_drip = self.server.script.take(
            (self.path, dict(self.headers), body)
        )
        if status is None:  # hang up without a word
            self.close_connection = True
            self.server.script.leave()
            return
        with contextlib.suppress(OSError):  # the client may have gone
            time.sleep(delay)
            for byte in b"HTTP/1.1 200 OK\r\nX-Slow: yes" if head_drip else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(head_drip)
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(payload)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if not drip:
                self.wfile.write(payload)
            for byte in payload if drip else b"":
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(drip)
            if int(headers.get("Content-Length", len(payload))) != len(payload):
                self.close_connection = True
        self.server.script.leave()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(*script):
    """Serve a script; yields its record and the address."""
    record = Server(*script)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    http.script = record
    record.stop_listening = http.socket.close
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield record, f"http://127.0.0.1:{http.server_address[1]}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
