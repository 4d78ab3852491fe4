"""The host's own queue, and who notices that a prompt ended."""

from __future__ import annotations

import asyncio
import importlib
import threading
import time
from typing import Any

import pytest

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
    assert (prompt.graph, prompt.executed()) == (GRAPH, {"3"})
    server.prompt_queue.delete_history_item("ours")
    assert list(ends.new()) == []
    server.loop.call_soon_threadsafe(server.loop.stop)


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
