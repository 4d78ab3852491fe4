"""Listens to ComfyUI's events: the steps of a run, the records as they change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from typing import Any

import aiohttp


class Events(threading.Thread):
    """Keeps the newest data of each event in `latest`: `{"progress": {"value": 3, "max": 12, …}}`.

    It ends with the connection, without an error: what it brings is for show, and the run goes on without it.
    """

    def __init__(self, url: str, client: str) -> None:
        super().__init__(daemon=True)
        self.latest: dict[str, Any] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self._url = f"{url.replace('http', 'ws', 1)}/ws?clientId={client}"
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._listen())

    def run(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as socket:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._note(json.loads(message.data))

    def _note(self, event: dict[str, Any]) -> None:
        self.latest[event["type"]] = event.get("data")
        if event["type"] == "onediff.status":
            self.records[str(event["data"]["node"])] = event["data"]
