"""Listens to ComfyUI's events with the standard library alone: the steps of a run, the records as they change."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from typing import Any, BinaryIO

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Events(threading.Thread):
    """Keeps the newest data of each event in `latest`: `{"progress": {"value": 3, "max": 12, …}}`.

    It ends with the connection, without an error: what it brings is for show, and the run goes on without it.
    """

    def __init__(self, port: int, client: str) -> None:
        super().__init__(daemon=True)
        self.latest: dict[str, Any] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self._client = client
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def run(self) -> None:
        try:
            with self._socket, self._socket.makefile("rb") as stream:
                self._open(stream)
                self._socket.settimeout(None)
                while self._next(stream):
                    pass
        except (OSError, ValueError, EOFError):
            return

    def close(self) -> None:
        # Shutting down wakes the reader; closing alone would leave it waiting.
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _open(self, stream: BinaryIO) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET /ws?clientId={self._client} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        if b" 101 " not in stream.readline():
            raise ValueError("not a WebSocket")
        while stream.readline().strip():
            pass

    def _next(self, stream: BinaryIO) -> bool:
        kind, data = self._message(stream)
        if kind == _PING:
            self._send(_PONG, data)
        elif kind == _TEXT:
            event = json.loads(data)
            self.latest[event["type"]] = event.get("data")
            if event["type"] == "onediff.status":
                record = event["data"]
                self.records[str(record["node"])] = record
        return kind != _CLOSE

    def _message(self, stream: BinaryIO) -> tuple[int, bytes]:
        """One message, its fragments joined (RFC 6455, section 5.2). A server's frames carry no mask."""
        kind, data = 0, b""
        while True:
            first, second = _exactly(stream, 2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(_exactly(stream, 2 if length == 126 else 8), "big")
            kind, data = kind or first & 0x0F, data + _exactly(stream, length)
            if first & 0x80:
                return kind, data

    def _send(self, kind: int, data: bytes) -> None:
        mask = os.urandom(4)
        body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | kind, 0x80 | len(data)]) + mask + body)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data
