"""How prompts end: Cancel, and noticing the end. ComfyUI tells pages of it, but no node: its queue is looked at while
prompts run."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
from comfy_api.latest import io

from ..node_ids import is_ours
from ..patching.ending.lingering import Calls, Finalizers, Held
from ..patching.ending.stopping import Unanswered
from ..patching.user_code import Cancel
from ..patching.user_errors import ordinary
from ..processors.called_sites import running
from ..status.prompts import EndedPrompt, NodeClass

log = logging.getLogger(__name__)

#: An Exception up to ComfyUI 0.18.2, a BaseException since.
CANCEL = Cancel(
    comfy.model_management.throw_exception_if_processing_interrupted,
    comfy.model_management.InterruptProcessingException,
)

#: Seconds between two looks, after Cancel too, and how long they go on when there is nothing in the queue: a prompt is
#: checked before it is put there.
PAUSE, SOON, GRACE = 0.25, 0.05, 60.0

#: Prompts that are remembered as seen.
MOST = 200


def ends_no_queue(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, with an ``execute`` that raises only what ComfyUI shows as an error, or takes for Cancel. All else,
    as SystemExit in a person's code, ends the thread that runs prompts, and with it every later one."""
    execute = node.execute.__func__  # type: ignore[attr-defined]

    @functools.wraps(execute)
    def guarded(cls: type[io.ComfyNode], *args: Any, **kwargs: Any) -> Any:
        try:
            return execute(cls, *args, **kwargs)
        except (Exception, CANCEL.error):
            raise
        except BaseException as error:
            raise ordinary(error) from None

    node.execute = classmethod(guarded)  # type: ignore[method-assign, assignment]
    return node


class PromptEnds:
    """Calls ``settle`` soon after prompts ended. ``workflow_of`` gives the editor's workflow of an item of the queue,
    ``is_theirs`` says whether a file of Python code is the user's own: Cancel ends what runs there. ``hold(workflow,
    held)`` is told of a call that does not return, and with None when it did."""

    def __init__(
        self,
        server: Any,
        settle: Callable[[], None],
        workflow_of: Callable[[tuple], str | None],
        is_theirs: Callable[[str], bool] = lambda file: False,
        hold: Callable[[str | None, Held | None], None] = lambda workflow, held: None,
    ):
        self._server = server
        self._settle = settle
        self._workflow_of = workflow_of
        self._unanswered = Unanswered(CANCEL.error, is_theirs)
        self._calls, self._hold = Calls(is_theirs, running), hold
        self._held: Held | None = None
        self._loops: int | None = None  # the thread of the server's event loop
        self._finalizers, self._beside = Finalizers(is_theirs), Finalizers(is_theirs, served=self._serving)
        self._seen: deque[str] = deque(maxlen=MOST)
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    def watch(self) -> None:
        """Looks from now on, until nothing is left in the queue. From any thread."""
        self._until = time.monotonic() + GRACE
        self._beside.start()
        loop = getattr(self._server, "loop", None)
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(self._begin)

    def _serving(self) -> int | None:
        """The thread of the server's event loop, while that runs: another one may have its number after it."""
        loop = getattr(self._server, "loop", None)
        return self._loops if loop is not None and loop.is_running() else None

    def on_prompt(self, data: Any) -> Any:
        """What the server calls with each prompt that it is sent."""
        self.watch()
        return data

    def new(self) -> Iterator[EndedPrompt]:
        """Prompts that ran to their end since the last call, oldest first."""
        queue = self._server.prompt_queue
        with queue.mutex:
            history = list(queue.history.items())
        fresh: list[tuple[str, Any]] = []
        for prompt_id, entry in reversed(history):
            if prompt_id in self._seen or len(fresh) == MOST:
                break
            fresh.append((prompt_id, entry))
        for prompt_id, entry in reversed(fresh):
            self._seen.append(prompt_id)
            ended = self._read(entry)
            if ended is not None:
                yield ended

    def _begin(self) -> None:
        self._loops = threading.get_ident()
        if self._timer is None:
            self._look()

    def _look(self) -> None:
        self._timer = None
        pressed = comfy.model_management.processing_interrupted()
        try:
            self._unanswered.look(pressed)
            self._finalizers.look()
            self._tell(self._calls.look(self._unanswered.in_vain))
            self._settle()
        except Exception:  # a picture must not be lost for it, nor the looks that follow
            log.warning("OneDiff: what became of a prompt could not be read", exc_info=True)
        if self._server.prompt_queue.get_tasks_remaining() or time.monotonic() < self._until:
            self._timer = self._server.loop.call_later(SOON if pressed else PAUSE, self._look)

    def _tell(self, held: Held | None) -> None:
        before = self._held
        if held is before or (held and before and (held.file, held.cancelled) == (before.file, before.cancelled)):
            return  # the page counts on
        self._held = held
        running, _queued = self._server.prompt_queue.get_current_queue_volatile()
        self._hold(self._workflow_of(running[0]) if running else None, held)

    def _read(self, entry: dict[str, Any]) -> EndedPrompt | None:
        """An entry of the history; None for a prompt that failed or was cancelled."""
        messages = dict((entry.get("status") or {}).get("messages") or ())
        graph = entry["prompt"][2]
        if "execution_success" not in messages or not isinstance(graph, dict):
            return None
        began = messages.get("execution_start", {}).get("timestamp")
        if began is None or not any(is_ours(str(node.get("class_type"))) for node in graph.values()):
            return None
        outputs = entry.get("outputs") or {}
        return EndedPrompt(
            workflow=self._workflow_of(entry["prompt"]),
            began=began / 1000,
            graph=graph,
            wanted=tuple(entry["prompt"][4] or ()),
            cached=frozenset(messages.get("execution_cached", {}).get("nodes") or ()),
            records={n: output["onediff"][0] for n, output in outputs.items() if output and output.get("onediff")},
        )


def class_of(name: str) -> NodeClass:
    """What is known of a class of nodes. One that is gone may be anything."""
    cls = importlib.import_module("nodes").NODE_CLASS_MAPPINGS.get(name)  # ComfyUI's, not this package
    if cls is None:
        return NodeClass(("*",))
    outputs = tuple(str(kind) for kind in getattr(cls, "RETURN_TYPES", None) or ())
    module = str(getattr(cls, "RELATIVE_PYTHON_MODULE", "nodes"))
    return NodeClass(outputs, not module.startswith("custom_nodes"), is_ours(name))
