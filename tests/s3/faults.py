"""A proxy in front of an S3 server that fails as networks and busy servers do."""

import random
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, nullcontext
from enum import StrEnum
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Fault(StrEnum):
    """What may become of a request."""

    ERROR = "500 InternalError"
    BUSY = "503 SlowDown"
    SILENCE = "no answer"
    REFUSED = "dropped before it was carried out"
    LOST = "carried out, and dropped before its answer"
    CUT = "dropped in the middle of its answer"


def each(rate: float) -> dict[Fault, float]:
    """Every kind of fault, so often."""
    return dict.fromkeys(Fault, rate)


class Proxy:
    """Hands requests on, or not.

    What becomes of a request depends on the seed, on the request, and on how often it was made before; so a
    test is the same whatever the order of threads is.

    Attributes:
        url: where it listens.
        rates: probability of each fault.
        requests: method and path of all that came, without the query.
        harmed: those of them that there was a fault in.
        injected: how many faults of each kind there were.
    """

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server).netloc
        self._lock = threading.Lock()
        # The server looks first and writes then; of two that create, S3 lets one win.
        self.writing = threading.Lock()
        self.heal()
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": self}))
        self._listener.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def heal(self) -> None:
        """No more faults, and nothing counted."""
        self.fail({})

    def fail(self, rates: Mapping[Fault, float], seed: int = 0, below: str = "/") -> None:
        """From now on, with nothing counted yet.

        Args:
            below: only requests for paths that begin like this.
        """
        with self._lock:
            self.rates, self.seed, self.below = dict(rates), seed, below
            self.requests: list[tuple[str, str]] = []
            self.harmed: list[tuple[str, str]] = []
            self.injected: Counter[Fault] = Counter()
            self._seen: Counter[str] = Counter()

    def draw(self, method: str, target: str) -> Fault | None:
        """What becomes of a request, if it is not simply answered."""
        with self._lock:
            self.requests.append((method, urlsplit(target).path))
            if not target.startswith(self.below):
                return None
            self._seen[f"{method} {target}"] += 1
            chance = random.Random(f"{self.seed} {method} {target} {self._seen[f'{method} {target}']}").random()
            for fault, rate in self.rates.items():
                chance -= rate
                if chance < 0:
                    self.injected[fault] += 1
                    self.harmed.append(self.requests[-1])
                    return fault
        return None


_BODY = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>{}</Code><Message>{}</Message><RequestId>1</RequestId></Error>"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match self.proxy.draw(self.command, self.path):
            case Fault.ERROR:
                self._fail(500, "InternalError", "We encountered an internal error. Please try again.")
            case Fault.BUSY:
                self._fail(503, "SlowDown", "Please reduce your request rate.")
            case Fault.SILENCE:
                self.connection.settimeout(60)
                self.connection.recv(1)  # until the client has had enough
                self.close_connection = True
            case Fault.REFUSED:
                self._drop()
            case Fault.LOST:
                self._forward(body)
                self._drop()
            case Fault.CUT:
                response, data = self._forward(body)
                self._head(response)
                self.wfile.write(data[: len(data) // 2])
                self._drop()
            case None:
                response, data = self._forward(body)
                self._head(response)
                self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 – names of the base class

    def _forward(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        upstream = HTTPConnection(self.proxy.server, timeout=60)
        with self.proxy.writing if self.command == "PUT" else nullcontext(), closing(upstream):
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            response = upstream.getresponse()
            return response, response.read()

    def _head(self, response: HTTPResponse) -> None:
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()

    def _fail(self, status: int, code: str, message: str) -> None:
        body = _BODY.format(code, message).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nothing: the proxy counts."""
