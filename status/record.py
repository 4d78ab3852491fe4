"""The one JSON object that says what is active, what it gained, and why not.

``docs/record.md`` says what each field holds. Times are in milliseconds unless the name says seconds; a field that does
not apply yet is ``None``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from .plain import LONGEST_LINE, cut, plain_field
from .summary import summarize

STATES = (
    "idle",
    "patched",
    "checked",
    "passed",
    "checking",
    "starting",
    "compiling",
    "measuring",
    "compiled",
    "partial",
    "uncompiled",
    "failed",
)

FIELDS = (
    "workflow",
    "node",
    "settings",
    "sources",
    "upstream",
    "state",
    "summary",
    "progress",
    "model",
    "backend",
    "check",
    "patches",
    "compile",
    "unused",
    "not_finite",
    "approximate",
    "held",
    "speed",
    "parity",
    "memory",
    "machine",
    "measured_at",
)

#: Seconds between two events of one record: pages are told twice a second at most.
MIN_INTERVAL = 0.5


def record_key(workflow: str | None, node: str) -> str:
    """Opaque key that keeps equal node ids of different workflows apart."""
    return f"{workflow or '-'}:{node}"


class Record:
    """One node's status, published when it changes.

    ``data`` is a plain dict with exactly the keys of ``FIELDS``. Nested values are JSON's (see ``plain``), and are
    replaced, never changed in place, so that another thread can serialise ``data`` at any time. The dict is also what
    ComfyUI keeps as the node's ``ui`` output: a record that is filled while the model samples is complete in
    ``/history`` too.
    """

    def __init__(self, workflow: str | None, node: str, publish: Callable[[Record], None] | None = None):
        self.data: dict[str, Any] = dict.fromkeys(FIELDS)
        self.data.update(workflow=workflow, node=node, state="idle")
        self._publish = publish
        self._lock = threading.Lock()
        self._sent_at = float("-inf")
        #: When the node's model was sampled last (seconds since 1970), and by which classes of nodes, None for unknown.
        self.sampled_at = float("-inf")
        self.samplers: set[str | None] = set()
        #: What was said after prompts that took the model on different ways, by way: see ``Hub.settle``.
        self.said: dict[Any, dict[str, Any]] = {}

    @property
    def key(self) -> str:
        """See ``record_key``."""
        return record_key(self.data["workflow"], self.data["node"])

    def __getitem__(self, field: str) -> Any:
        return self.data[field]

    @property
    def due(self) -> bool:
        """Whether a live update would be published now."""
        return time.monotonic() - self._sent_at >= MIN_INTERVAL

    def update(self, *, live: bool = False, **fields: Any) -> None:
        """Replaces fields, rewrites the summary, and publishes.

        ``live=True`` marks one of many updates in a row: it may be skipped so that at most two go out a second. Any
        other update is always published.

        Raises:
            KeyError: for a field that the record does not have.
            ValueError: for a state that is not in ``STATES``.
        """
        unknown = fields.keys() - self.data.keys()
        if unknown:
            raise KeyError(f"the status record has no field {sorted(unknown)}")
        if "state" in fields and fields["state"] not in STATES:
            raise ValueError(f"unknown state {fields['state']!r}; one of {', '.join(STATES)}")
        fields = {name: plain_field(name, value) for name, value in fields.items()}
        with self._lock:
            self.data.update(fields)
            self.data["summary"] = cut(summarize(self.data), LONGEST_LINE)
            due = not live or self.due
            if due:
                self._sent_at = time.monotonic()
        if due and self._publish is not None:
            self._publish(self)

    def sampled(self, by: str | None = None) -> None:
        """Notes that the node's model was sampled by a node of this class."""
        self.sampled_at = time.time()
        self.samplers.add(by)

    def stamp(self) -> None:
        """Notes the time of the last measurement (``measured_at``, ISO 8601, local time zone)."""
        self.data["measured_at"] = datetime.now(timezone.utc).astimezone().isoformat(timespec="seconds")
