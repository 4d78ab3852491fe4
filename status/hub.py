"""Keeps the records of this server and hands them to whoever listens."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .record import Record, record_key

#: Records kept for pages that load later; the oldest goes first.
MAX_RECORDS = 500


class Run(NamedTuple):
    """One prompt that ended: the editor's workflow, when it began (seconds since 1970), and the records that its nodes
    gave as output, by execution id."""

    workflow: str
    began: float
    records: dict[str, dict[str, Any]]


class Hub:
    """The records by key, newest last.

    ComfyUI caches nodes across workflows: of two that have equal nodes with equal ids, the second runs the objects of
    the first. So a record moves to the workflow that runs it, and a node that was only taken from the cache shows what
    its run gave as output.

    ``transport(event, data)`` sends an event to all pages; None sends nothing. ``running()`` is the workflow of the
    prompt that runs now, None without one. ``runs()`` are ended prompts, newest first.
    """

    def __init__(
        self,
        transport: Callable[[str, Any], None] | None = None,
        running: Callable[[], str | None] = lambda: None,
        runs: Callable[[], Iterable[Run]] = tuple,
    ):
        self.transport = transport
        self.running = running
        self.runs = runs
        self._records: OrderedDict[str, Record] = OrderedDict()
        #: When each record changed last (seconds since 1970), and to what.
        self._changed: dict[str, tuple[float, dict[str, Any]]] = {}

    def record(self, workflow: str | None, node: str) -> Record:
        """A new record for a node, in place of the one it had."""
        record = Record(workflow, node, self.publish)
        self._records.pop(record.key, None)
        self._keep(record)
        while len(self._records) > MAX_RECORDS:
            self._changed.pop(self._records.popitem(last=False)[0], None)
        return record

    def publish(self, record: Record) -> None:
        """Keeps the record as its node's current one and sends it."""
        workflow = self.running()
        if workflow is not None and workflow != record["workflow"]:
            if self._records.get(record.key) is record:
                left = self._records[record.key] = Record(record["workflow"], record["node"])
                left.data = self._changed[record.key][1]
            record.data["workflow"] = workflow
        self._keep(record)
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
        found: dict[str, dict[str, Any]] = {}
        for run in self.runs():
            for node, data in run.records.items():
                key = record_key(run.workflow, node)
                if key not in found and (key not in self._changed or self._changed[key][0] < run.began):
                    found[key] = {**data, "workflow": run.workflow, "node": node}
        return {key: record.data for key, record in list(self._records.items())} | found

    def _keep(self, record: Record) -> None:
        self._records[record.key] = record
        self._changed[record.key] = (time.time(), dict(record.data))


HUB = Hub()
