"""Keeps the records of this server and hands them to whoever listens."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from .record import Record

log = logging.getLogger(__name__)

#: Records kept for pages that load later; the oldest goes first.
MAX_RECORDS = 500


class Hub:
    """The records by key, newest last. ``transport(event, data)`` sends an event to all pages; None sends nothing."""

    def __init__(self, transport: Callable[[str, Any], None] | None = None):
        self.transport = transport
        self._records: OrderedDict[str, Record] = OrderedDict()

    def record(self, workflow: str | None, node: str) -> Record:
        """A new record for a node, in place of the one it had."""
        record = Record(workflow, node, self.publish)
        self._records.pop(record.key, None)
        self._records[record.key] = record
        while len(self._records) > MAX_RECORDS:
            self._records.popitem(last=False)
        return record

    def publish(self, record: Record) -> None:
        """Keeps the record as its node's current one and sends it."""
        self._records[record.key] = record
        if self.transport is not None:
            self.transport("onediff.status", record.data)

    def forget_speed(self) -> None:
        """Takes measured times out of all records. A node that went uncompiled because of them is idle again."""
        for record in list(self._records.values()):
            speed = record["speed"]
            if speed is None:
                continue
            state = "idle" if record["state"] == "uncompiled" and speed.get("kept") == "uncompiled" else record["state"]
            record.data["measured_at"] = None
            record.update(state=state, speed=None)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """All records as ``{key: data}``."""
        return {key: record.data for key, record in list(self._records.items())}


HUB = Hub()
