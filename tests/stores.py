"""An S3 API on this machine, and a proxy before it that fails as often as it is told to.

Ray's workers find both through ``AWS_ENDPOINT_URL``, and keys of no worth in the environment, as on a real cluster.
"""

from __future__ import annotations

import http.client
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

Fault = Literal["500", "503", "403", "expired", "delay", "reset", "lost", "cut"]
"""An error, ``SlowDown``, ``AccessDenied``, ``ExpiredToken``, an answer that comes late; no answer, before or after the
request has been carried out; half of an answer."""
FAULTS: tuple[Fault, ...] = ("500", "503", "delay", "reset", "lost", "cut")
"""Those that pass when a request is sent again."""
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAOFNOWORTH",
    "AWS_SECRET_ACCESS_KEY": "of-no-worth",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_ERROR = (
    "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}, said the proxy.</Message>"
    f"<HostId>{'0' * 400}</HostId></Error>"
)
"""As long as Amazon's, and longer than small objects are: a case of its own in pyarrow."""
_CODES: dict[str, tuple[int, str]] = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "expired": (400, "ExpiredToken"),
}


class Store:
    """A running S3 server.

    Attributes
    ----------
    host, port : str, int
        Where it listens.
    client : S3 client
        Does what pyarrow cannot, such as making buckets.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.host, self.port = self._server.get_host_and_port()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def bucket(self, name: str) -> str:
        """Make a bucket, empty if it was there before."""
        if name in (each["Name"] for each in self.client.list_buckets()["Buckets"]):
            while keys := self.keys(name)[:1000]:
                self.client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in keys]})
        else:
            self.client.create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def fill(self, bucket: str, keys: Iterable[str]) -> None:
        """Put many small objects where the server keeps them, without a request for each."""
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key in keys:
            backend.put_object(bucket, key, b"x")

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return all keys, directory markers included."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", [])]

    @contextmanager
    def asking_for_keys(self) -> Iterator[None]:
        """Accept no keys but those of IAM users for a while; there are none."""
        self._check_keys_after("0")
        try:
            yield
        finally:
            self._check_keys_after("inf")

    def _check_keys_after(self, requests: str) -> None:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request("POST", "/moto-api/reset-auth", requests, {"Content-Type": "text/plain"})
            connection.getresponse().read()
        finally:
            connection.close()

    def stop(self) -> None:
        self._server.stop()


class Proxy(ThreadingHTTPServer):
    """Passes requests on, and fails a fraction of them.

    Parameters
    ----------
    store : Store
        Where requests go.
    seed : int
        Decides which ones fail.

    Attributes
    ----------
    fraction : float
        How many of the requests fail, from 0 to 1.
    kinds : sequence of str
        In what ways.
    methods, within : collection of str, str
        Only requests with these methods, and with this in their path.
    delay_s : float
        How late a late answer is.
    requests : Counter
        What was asked for, by method.
    faults : Counter
        What failed, by kind.
    """

    daemon_threads = True

    def __init__(self, store: Store, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.fraction = 0.0
        self.kinds: Sequence[Fault] = FAULTS
        self.methods: Collection[str] = ("GET", "PUT", "POST", "HEAD", "DELETE")
        self.within = ""
        self.delay_s = 0.5
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._drawing = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def draw(self, method: str, path: str) -> Fault | None:
        """Return how the next request fails."""
        with self._drawing:
            self.requests[method] += 1
            meant = method in self.methods and self.within in path
            fails = meant and self._random.random() < self.fraction
            kind = self._random.choice(self.kinds) if fails else None
            if kind is not None:
                self.faults[kind] += 1
            return kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed leave broken connections behind."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Proxy

    def _pass(self) -> None:
        body = b"".join(self._chunks())
        fault = self.server.draw(self.command, self.path)
        if fault == "reset":
            self._hang_up()
            return
        if fault in _CODES:
            status, code = _CODES[fault]
            self._answer(status, [("Content-Type", "application/xml")], _ERROR.format(code=code).encode())
            return
        if fault == "delay":
            time.sleep(self.server.delay_s)
        status, headers, content = self._ask(body)
        if fault == "lost":
            self._hang_up()
        elif fault == "cut":
            self._answer(status, headers, content, sent=len(content) // 2)
            self._hang_up()
        else:
            self._answer(status, headers, content)

    def handle_expect_100(self) -> bool:
        """Ask for the body at once: the answer must not wait in a buffer."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def _chunks(self) -> Iterator[bytes]:
        """Yield the request's body; the SDK sends larger ones in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.store.host, self.server.store.port, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection", "content-length", "transfer-encoding"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        length = len(content)
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = int(value)
            elif name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_store() -> Iterator[Store]:
    """Run an S3 server."""
    store = Store()
    try:
        yield store
    finally:
        store.stop()


@contextmanager
def proxy_before(store: Store, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy before a store."""
    proxy = Proxy(store, seed)
    threading.Thread(target=proxy.serve_forever, args=(0.02,), name="proxy", daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables of this process for a while."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
