"""The host's own queue, and who notices that a prompt ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("host")

GRAPH = {
    "12": {"class_type": "OneDiffCompile", "inputs": {}},
    "3": {"class_type": "KSampler", "inputs": {"m": ["12", 0]}},
}


class Server:
    """What of the host's server the queue and the pack use; the loop is a real one, in a thread."""

    def __init__(self):
        import execution

        self.loop = asyncio.new_event_loop()
        self.prompt_queue = execution.PromptQueue(self)
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def queue_updated(self):
        pass

    def run(self, prompt_id, graph, ended="execution_success"):
        """A prompt passes through the queue as the host's worker does it."""
        from execution import PromptQueue

        self.prompt_queue.put((1, prompt_id, graph, {"extra_pnginfo": {"workflow": {"id": "w"}}}, ["3"], {}))
        _, item = self.prompt_queue.get(timeout=1)
        time.sleep(0.3)
        data = {"prompt_id": prompt_id, "timestamp": 5000}
        messages = [("execution_start", data), ("execution_cached", {**data, "nodes": ["12"]}), (ended, data)]
        status = PromptQueue.ExecutionStatus("success", ended == "execution_success", messages)
        outputs = {"outputs": {"12": {"onediff": [{"node": "12"}]}, "9": None}, "meta": {}}
        self.prompt_queue.task_done(item, outputs, status, lambda prompt: prompt[:5])


def test_an_ended_prompt_is_noticed_soon_and_once():
    from onediff_pack.host.prompt_ends import PromptEnds

    server, found = Server(), []
    ends: PromptEnds = PromptEnds(server, lambda: found.extend(ends.new()), lambda prompt: "w")
    assert ends.on_prompt({"prompt": 1}) == {"prompt": 1}
    server.run("failed", GRAPH, "execution_error")
    server.run("of others", {"3": {"class_type": "KSampler", "inputs": {}}})
    assert found == []
    server.run("ours", GRAPH)
    deadline = time.monotonic() + 5
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)
    (prompt,) = found
    assert (prompt.workflow, prompt.began, prompt.wanted, prompt.cached) == ("w", 5.0, ("3",), {"12"})
    assert prompt.records == {"12": {"node": "12"}}
    assert (prompt.graph, prompt.executed) == (GRAPH, {"3"})
    server.prompt_queue.delete_history_item("ours")
    assert list(ends.new()) == []
    server.loop.call_soon_threadsafe(server.loop.stop)


@pytest.mark.parametrize(
    "raised", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__
)
def test_what_would_end_the_thread_of_the_queue_is_an_error_of_the_node(monkeypatch, raised):
    """Here a model raises it, of another pack's class."""
    import comfy.model_patcher
    from onediff_pack import nodes

    class Theirs(comfy.model_patcher.ModelPatcher):
        def clone(self, *args, **kwargs):
            raise raised

        get_model_object = clone

    monkeypatch.setattr(nodes, "old_nodes", list)  # they need a server
    offered = {node.GET_SCHEMA().node_id: node for node in asyncio.run(nodes.OneDiffExtension().get_node_list())}
    for name in ("OneDiffPatchAttention", "OneDiffForwardCheck", "OneDiffCompile"):
        inputs = {one.id: getattr(one, "default", None) for one in offered[name].GET_SCHEMA().inputs}
        model = Theirs(nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu"))
        with pytest.raises(Exception, match=type(raised).__name__):
            offered[name].PREPARE_CLASS_CLONE({"hidden_inputs": {}}).execute(**{**inputs, "model": model})


def test_cancel_passes_a_node_as_cancel():
    import comfy.model_management
    from onediff_pack.host.prompt_ends import ends_no_queue
    from onediff_pack.nodes.load_processor import OneDiffLoadProcessor

    class Cancelled(OneDiffLoadProcessor):
        @classmethod
        def execute(cls, file: Any, strength: Any = 1.0) -> Any:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ends_no_queue(Cancelled).execute(file="")


def test_what_is_known_of_the_hosts_classes():
    from onediff_pack.host.prompt_ends import class_of

    nodes: Any = importlib.import_module("nodes")  # ComfyUI's
    assert class_of("KSampler") == (("LATENT",), True, False)
    assert class_of("gone") == (("*",), False, False)
    nodes.NODE_CLASS_MAPPINGS["OneDiffMine"] = type("Mine", (), {"RELATIVE_PYTHON_MODULE": "custom_nodes.mine"})
    try:
        assert class_of("OneDiffMine") == ((), False, True)
    finally:
        del nodes.NODE_CLASS_MAPPINGS["OneDiffMine"]


#: Code that is never through, and the file that it is from.
ENDLESS = {
    "theirs": ("/models/mine.py", "while not end.is_set():\n        pass"),
    "others'": ("/models/others.py", "while not end.is_set():\n        pass"),
    "inherited": ("/models/others.py", "while not end.is_set():\n        pass"),
    "swallows": (
        "/models/mine.py",
        "while not end.is_set():\n        try:\n            sum(range(3000))\n"
        "        except BaseException:\n            continue",
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_cancel_reaches_a_call_of_the_users_code_that_never_returns(name):
    from onediff_pack.processors.authored.call_plan import Plan

    theirs, (file, loop) = name != "others'", ENDLESS[name]
    import comfy.model_management as management
    from onediff_pack.host.prompt_ends import CANCEL, PromptEnds

    server, found, going = Server(), [], threading.Event()
    ends = PromptEnds(server, lambda: None, lambda prompt: "w", lambda file: file == "/models/mine.py")
    scope: dict[str, Any] = {"going": going}
    exec(compile(f"def forward(end):\n    going.set()\n    {loop}\n", file, "exec"), scope)
    end = threading.Event()

    def sample() -> None:
        try:
            if name == "inherited":  # the processor's class is, from a package
                Plan(("end",), {}, (), ()).call(scope["forward"], {"end": end})
            else:
                scope["forward"](end)
        except BaseException as error:
            found.append(type(error))

    thread = threading.Thread(target=sample)
    ends.watch()
    thread.start()
    going.wait(5)
    management.interrupt_current_processing()
    try:
        thread.join(8 if name == "swallows" else 2)
        assert found == ([CANCEL.error] if theirs else [])
        assert thread.is_alive() is not theirs
    finally:
        management.interrupt_current_processing(False)
        end.set()
        thread.join(5)
        server.loop.call_soon_threadsafe(server.loop.stop)


def leave(body: str, **names: Any) -> None:
    """Leaves a ``__del__`` of a person's in a reference cycle."""
    exec(compile(f"class Mine:\n    def __del__(self):\n{textwrap.indent(body, ' ' * 8)}", MINE, "exec"), names)
    mine = names["Mine"]()
    mine.me = mine


MINE = "/models/mine.py"
LOOPS = "begun.set()\nwhile True:\n    pass"
SWALLOWS = "begun.set()\nwhile True:\n    try:\n        sum(range(3000))\n    except Exception:\n        0"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("body", [LOOPS, SWALLOWS], ids=["loops", "swallows"])
@pytest.mark.parametrize("where", ["a thread", "the event loop"])
def test_a_del_that_does_not_return_is_ended_wherever_python_collects(monkeypatch, where, body):
    from onediff_pack.host import prompt_ends
    from onediff_pack.patching.ending import lingering

    monkeypatch.setattr(prompt_ends, "Finalizers", partial(lingering.Finalizers, seconds=0.3))
    server, begun, ended = Server(), threading.Event(), threading.Event()
    ends = prompt_ends.PromptEnds(
        server, lambda: None, lambda prompt: "w", lambda file: file == MINE and not ended.is_set()
    )

    def collect() -> None:
        leave(body, begun=begun)
        gc.collect()
        sum(range(1_000_000))  # nothing of what ended it comes here
        ended.set()

    try:
        ends.watch()
        if where == "a thread":
            threading.Thread(target=collect, daemon=True).start()
        else:
            server.loop.call_soon_threadsafe(collect)
        assert begun.wait(5)
        assert ended.wait(5)
    finally:
        server.loop.call_soon_threadsafe(server.loop.stop)


#: Each makes ``left``, and what Python runs when that is collected.
IN_ITS_PLACE = {
    "a callback": "import weakref\nclass Mine: pass\ndef end(_): LOOP\nleft = Mine()\nref = weakref.ref(left, end)",
    "finalize": "import weakref\nclass Mine: pass\ndef end(): LOOP\nleft = Mine()\nweakref.finalize(left, end)",
    "a generator": "def go_on():\n    try: yield\n    finally: LOOP\nleft = go_on()\nnext(left)",
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", IN_ITS_PLACE)
def test_what_stands_for_a_del_is_ended_where_cancel_is_answered(monkeypatch, what):
    """On the event loop, that is: whatever it holds up, Cancel would wait for."""
    from onediff_pack.host import prompt_ends
    from onediff_pack.patching.ending import lingering

    monkeypatch.setattr(prompt_ends, "Finalizers", partial(lingering.Finalizers, seconds=0.3))
    server, ended, end = Server(), threading.Event(), threading.Event()

    def theirs(file: str) -> bool:
        return file == MINE and not ended.is_set()

    ends = prompt_ends.PromptEnds(server, lambda: None, lambda prompt: "w", theirs)
    scope: dict[str, Any] = {"end_": end}
    text = IN_ITS_PLACE[what].replace("LOOP", "\n        while not end_.is_set(): pass")
    exec(compile(text, MINE, "exec"), scope)

    def collect() -> None:
        del scope["left"]
        gc.collect()
        ended.set()

    try:
        ends.watch()
        server.loop.call_soon_threadsafe(collect)
        assert ended.wait(5)
    finally:
        end.set()
        server.loop.call_soon_threadsafe(server.loop.stop)


LOOKS = {
    "for a __del__": "lingering.Finalizers(lambda file: False).look()",
    "for a long call": "lingering.Calls(lambda file: False, lambda: {ident: 1}).look(False)",
    "at Cancel": "stopping.Unanswered(ValueError, lambda file: False)._runs_theirs(ident)",
    "at what it imports": "stopping.raise_in(ident, error=None)",
}

#: In a process of its own: another test asks Python to tell it of all that is opened, and so of every look.
LOOKED_AT = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from ending import lingering, stopping

elsewhere, end, ident = [], threading.Event(), threading.get_ident()

class Guard:
    def __init__(self):
        self.thread = threading.get_ident()

    def __del__(self):
        if threading.get_ident() != self.thread:
            elsewhere.append(self.thread)

def guarded(depth):
    guard = Guard()
    if depth:
        guarded(depth - 1)

def look_on():
    while not end.is_set():
        LOOK

sys.setswitchinterval(1e-6)
looking = threading.Thread(target=look_on, daemon=True)
looking.start()
until = time.monotonic() + 1.5
while time.monotonic() < until and not elsewhere:
    guarded(5)
end.set()
looking.join(5)
print("elsewhere" if elsewhere else "here")
"""


@pytest.mark.parametrize("name", LOOKS)
def test_what_a_thread_holds_ends_in_that_thread_whoever_looks_at_it(name):
    """PyTorch's guards set back the state of the thread that they end in. In another one they left Dynamo with modes
    that it did not set, and now and then crashed the server."""
    patching = Path(__file__).parents[2] / "patching"
    command = [sys.executable, "-c", LOOKED_AT.replace("LOOK\n", f"{LOOKS[name]}\n"), str(patching)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["here"]


def test_short_ones_one_after_the_other_are_left_alone(monkeypatch):
    from onediff_pack.patching.ending import lingering

    now = [0.0]
    monkeypatch.setattr(lingering, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    finalizers, done, met = lingering.Finalizers(lambda file: file == MINE, 0.5), [], threading.Barrier(2, timeout=20)

    def collect() -> None:
        for _ in range(6):
            leave("met.wait()\nmet.wait()\ndone.append(1)", met=met, done=done)
            gc.collect()
            met.wait()
            met.wait()

    threading.Thread(target=collect, daemon=True).start()
    for _ in range(6):
        for _ in ("in a __del__", "between two"):
            met.wait()
            for _ in range(4):
                finalizers.look()
                now[0] += 0.1
            met.wait()
    finalizers.look()
    assert len(done) == 6


def test_a_call_that_waits_in_c_code_is_said_on_its_node(monkeypatch):
    """Before Cancel, after it, and not any more when it has returned."""
    import comfy.model_management as management
    from onediff_pack.host import server as host
    from onediff_pack.host.prompt_ends import PromptEnds
    from onediff_pack.patching.ending import lingering
    from onediff_pack.processors.called_sites import noting
    from onediff_pack.status import Hub

    monkeypatch.setattr(lingering, "LONG", 0.5)
    hub, server = Hub(), Server()
    monkeypatch.setattr(host, "HUB", hub)
    told: list[str] = []
    hub.transport = lambda event, data: told.append(data["summary"])
    records = {}
    for node, name in (("1", "custom/mine:Gain"), ("2", "sdpa")):
        record = records[node] = hub.record("w", node)
        record.update(state="patched", patches={"sites": [{"site": "a", "processor": name}], "foreign": []})
    told.clear()
    ends = PromptEnds(server, lambda: None, lambda prompt: "w", lambda file: file == MINE, host._hold)
    scope: dict[str, Any] = {}
    exec(compile("import time\ndef forward():\n    time.sleep(4)\n", "/models/mine.py", "exec"), scope)

    def sample() -> None:
        with noting(), contextlib.suppress(management.InterruptProcessingException):
            scope["forward"]()

    server.prompt_queue.put((1, "now", GRAPH, {}, ["3"], {}))
    server.prompt_queue.get(timeout=1)
    thread = threading.Thread(target=sample)
    thread.start()
    ends.watch()
    try:
        assert until(lambda: told) and told[-1].startswith("mine.py:3 has not returned for ")
        management.interrupt_current_processing()
        assert until(lambda: len(told) > 2)
        assert records["1"]["summary"] == "Cancel cannot end mine.py:3: restart ComfyUI, or wait"
        thread.join(6)
        assert until(lambda: records["1"]["held"] is None)
        assert records["1"]["summary"] == "patched 1 site · custom/mine:Gain"
        assert records["2"]["summary"] == "patched 1 site · sdpa" and len(told) == 4
    finally:
        management.interrupt_current_processing(False)
        server.loop.call_soon_threadsafe(server.loop.stop)


SLOW = """
import time

def two_lines(end):
    while time.monotonic() < end:
        time.sleep(0.01)
        time.sleep(0.01)

def again_and_again(end):
    time.sleep(0.2)
"""


@pytest.mark.parametrize("name", ["two_lines", "again_and_again"])
def test_which_call_has_not_returned_is_told_by_the_call(monkeypatch, name):
    """Not by its line: a loop has several, and a quick processor is called at the same one in every step."""
    from onediff_pack.patching.ending import lingering
    from onediff_pack.processors import called_sites

    monkeypatch.setattr(lingering, "LONG", 0.5)
    scope: dict[str, Any] = {}
    exec(compile(SLOW, MINE, "exec"), scope)
    end = time.monotonic() + 1.5

    def sample() -> None:
        while time.monotonic() < end:
            with called_sites.noting():
                called_sites.note_met(site, True)
                scope[name](end)

    site = nn.Identity()
    thread = threading.Thread(target=sample)
    thread.start()
    calls, held = lingering.Calls(lambda file: file == MINE, called_sites.running), []
    while thread.is_alive():
        held.append(calls.look(False))
        time.sleep(0.03)
    assert any(held) == (name == "two_lines")


def until(holds: Callable[[], Any], seconds: float = 5.0) -> Any:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()
