"""Keeps the records of this server and hands them to whoever listens."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .plain import short_id
from .prompts import EndedPrompt, NodeClass, not_sampled, route
from .record import Record, record_key

#: Records kept for pages that load later; the oldest goes first.
MAX_RECORDS = 500

#: Ways of a model through a prompt of which is remembered what was said.
MOST_WAYS = 8


class Run(NamedTuple):
    """One prompt that ended: the editor's workflow, when it began (seconds since 1970), and the records that its nodes
    gave as output, by execution id."""

    workflow: str
    began: float
    records: dict[str, dict[str, Any]]


#: States of nodes that patch or compile, when nothing is going on.
_SETTLED = frozenset({"idle", "patched", "compiled", "partial", "uncompiled"})


#: What is kept of a record for each way that prompts take the model on.
_KEPT = ("state", "unused", "not_finite", "speed", "parity")


def _not_sampled(record: Record, kind: NodeClass) -> dict[str, Any]:
    why = "not used" if kind.carried_by else "not sampled"
    figures = {} if record["state"] == "patched" else {"state": "uncompiled", "speed": None, "parity": None}
    return {"unused": {"why": why, "by": None, "where": None}, "not_finite": None, **figures}


def _is_replaced(record: Record) -> bool:
    return bool((record["backend"] or {}).get("replaced_by"))


def _file_of(processor: str) -> str:
    """ "custom/mine/gain:Gain" is from "gain"."""
    return processor.partition(":")[0].rpartition("/")[2]


class Hub:
    """The records by key, newest last.

    ComfyUI caches nodes across workflows: of two that have equal nodes with equal ids, the second runs the objects of
    the first. So a record moves to the workflow that runs it, and a node that was only taken from the cache shows what
    its run gave as output.

    ``transport(event, data)`` sends an event to all pages; None sends nothing. ``running()`` is the workflow of the
    prompt that runs now, None without one. ``runs()`` are ended prompts, newest first; ``ended()`` those that came to
    their end since it was asked last, oldest first. ``class_of`` says what is known of a class of nodes, and
    ``watch()`` lets ``settle`` be called when the prompt that runs has ended.
    """

    def __init__(
        self,
        transport: Callable[[str, Any], None] | None = None,
        running: Callable[[], str | None] = lambda: None,
        runs: Callable[[], Iterable[Run]] = tuple,
        ended: Callable[[], Iterable[EndedPrompt]] = tuple,
        class_of: Callable[[str], NodeClass] = lambda name: NodeClass(("*",)),
        watch: Callable[[], None] = lambda: None,
    ):
        self.transport = transport
        self.running = running
        self.runs = runs
        self.ended = ended
        self.class_of = class_of
        self.watch = watch
        self._records: OrderedDict[str, Record] = OrderedDict()
        #: When each record changed last (seconds since 1970), and to what.
        self._changed: dict[str, tuple[float, dict[str, Any]]] = {}
        #: What a prompt's nodes said when it ended, by key and when it began: what they gave as output goes on changing
        #: where another workflow runs them.
        self._said: OrderedDict[tuple[str, float], dict[str, Any]] = OrderedDict()

    def record(self, workflow: str | None, node: str) -> Record:
        """A new record for a node, in place of the one it had."""
        record = Record(workflow, node, self.publish)
        earlier = self._records.pop(record.key, None)
        if earlier is not None:
            record.samplers = earlier.samplers
        self._keep(record)
        while len(self._records) > MAX_RECORDS:
            self._changed.pop(self._records.popitem(last=False)[0], None)
        return record

    def publish(self, record: Record) -> None:
        """Keeps the record as its node's current one and sends it."""
        workflow = self.running()
        if workflow is not None:
            self._move(record, workflow)
        self._keep(record)
        if self.transport is not None:
            self.transport("onediff.status", record.data)

    def _move(self, record: Record, workflow: str) -> None:
        if workflow == record["workflow"]:
            return
        if self._records.get(record.key) is record:
            left = self._records[record.key] = Record(record["workflow"], record["node"])
            left.data = self._changed[record.key][1]
        record.data["workflow"] = workflow

    def settle(self) -> None:
        """Says of each node that had no effect in a prompt which just ended, because nothing sampled its model. Where
        the sampler came from ComfyUI's cache, what was said holds that was said when it ran."""
        for prompt in self.ended():
            for node in prompt.graph:
                record = self._record_in(prompt, node)
                if record is None or record["state"] not in _SETTLED or _is_replaced(record):
                    continue
                way = route(prompt, node, self.class_of)
                if record.sampled_at < prompt.began:
                    if not_sampled(prompt, node, record, self.class_of):
                        self._say(prompt, record, _not_sampled(record, self.class_of(prompt.class_of(node))))
                    elif way in record.said:
                        self._say(prompt, record, record.said[way])
                    else:
                        continue
                record.said = dict(list(record.said.items())[-MOST_WAYS:])
                record.said[way] = {name: record[name] for name in _KEPT}
            for node, data in prompt.records.items():
                self._said[(record_key(prompt.workflow, short_id(node)), prompt.began)] = dict(data)
        while len(self._said) > MAX_RECORDS:
            self._said.popitem(last=False)

    def _record_in(self, prompt: EndedPrompt, node: str) -> Record | None:
        """The record of a node that patches or compiles, unless the node has got another one since."""
        if not self.class_of(prompt.class_of(node)).is_ours:
            return None
        data = prompt.records.get(node)
        if data is None:
            return self._records.get(record_key(prompt.workflow, node))
        return next((record for record in list(self._records.values()) if record.data is data), None)

    def _say(self, prompt: EndedPrompt, record: Record, fields: dict[str, Any]) -> None:
        if all(record[name] == fields[name] for name in ("unused", "not_finite")):
            return
        if prompt.workflow is not None:
            self._move(record, prompt.workflow)
        record.update(progress=None, **fields)

    def hold(self, workflow: str | None, held: dict[str, Any] | None) -> None:
        """Says of a call that does not return, on the nodes of the workflow that put its ``file`` on the model: on all
        that patch, where none is known to. None when it has returned."""
        records = list(self._records.values())
        for record in records:
            if record["held"] is not None:
                record.update(held=None)
        if held is None:
            return
        patching = [one for one in records if one["workflow"] == workflow and one["patches"]]
        names = {one.key: {site["processor"] for site in one["patches"]["sites"]} for one in patching}
        theirs = [one for one in patching if any(_file_of(name) == held["file"] for name in names[one.key])]
        for record in theirs or patching:
            record.update(held={name: value for name, value in held.items() if name != "file"})

    def measured(self) -> list[dict[str, Any]]:
        """The models of which step times are kept, each once, the one that was measured last first."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for record in sorted(list(self._records.values()), key=lambda one: str(one["measured_at"])):
            model = record["model"]
            if model and record["speed"]:
                known = {name: model.get(name) for name in ("file", "class", "parameters", "dtype")}
                file, *kind = map(str, known.values())
                same = [key for key in found if key[1:] == tuple(kind)]
                if known["file"] is None and same:  # the one that was measured last, as far as anybody knows
                    file, known["file"] = same[-1][0], found[same[-1]]["file"]
                own = (file, *kind)
                for key in (own, ("None", *kind)):
                    found.pop(key, None)
                found[own] = {**known, "measured_at": record["measured_at"]}
        return list(found.values())[::-1]

    def forget_speed(self) -> None:
        """Takes measured times out of all records. A node that went uncompiled because of them is idle again."""
        self._said.clear()
        for record in list(self._records.values()):
            speed = record["speed"]
            if speed is None:
                continue
            state = "idle" if record["state"] == "uncompiled" and speed.get("kept") == "uncompiled" else record["state"]
            record.data["measured_at"] = None
            record.update(state=state, speed=None)

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """All records as ``{key: data}``."""
        self.settle()
        found: dict[str, dict[str, Any]] = {}
        for run in self.runs():
            for node, data in run.records.items():
                key = record_key(run.workflow, node)
                if key not in found and (key not in self._changed or self._changed[key][0] < run.began):
                    data = self._said.get((key, run.began), data)
                    found[key] = {**data, "workflow": run.workflow, "node": node}
        return {key: record.data for key, record in list(self._records.items())} | found

    def _keep(self, record: Record) -> None:
        self._records[record.key] = record
        self._changed[record.key] = (time.time(), dict(record.data))


HUB = Hub()
