"""Processors of the user's own that exit, wait and never end, on the real server: the next prompt always runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import bypass, example, node_classes, run, start

from scripts.environment import Environment
from scripts.prompt import to_prompt
from scripts.server import Server, error_of

HEAD = """
import itertools
import sys
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

_calls = itertools.count()


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    def forward(self, q, k, v, heads, mask=None):
        {line}
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
"""

#: Not in the check, which has other sizes, and not while it is compiled: in the middle of the second step.
EXITS = "torch.compiler.is_compiling() or q.shape[1] != 64 or next(_calls) < 6 or sys.exit('gone')"

SAYS = "print({!r}, file=sys.stderr, flush=True)"

#: The same call never returns.
LOOPS = EXITS.replace("sys.exit('gone')", f"[{SAYS.format('it loops')}] and all(True for _ in iter(int, 1))")

#: It keeps a count, so each sampling has an instance of its own, which is dropped at the end of it.
UNDYING = f"""
    def __del__(self):
        {SAYS.format("it is held")}
        while True:
            pass
"""

#: The same in a reference cycle: Python ends it when it collects, in whatever thread.
IN_A_CYCLE = "self.__dict__['me'] = self"

#: One call waits in C code, where nothing reaches it.
WAITS = EXITS.replace("sys.exit('gone')", f"[{SAYS.format('it waits')}] and __import__('time').sleep(15)")

#: Seconds for a prompt. Where the host's thread has ended, one would be waited for for ever.
TIMEOUT = 240


def text(line: str = "pass", init: str = "pass") -> str:
    return HEAD.format(line=line, init=init)


FILES = {
    "right": text(),
    "arguments": text(init="import argparse; argparse.ArgumentParser().parse_args(['--none'])"),
    "exits": text(line=EXITS),
    "endless": "while True:\n    pass\n" + text(),
    "loops": text(line=LOOPS),
    "undying": text(line="self.calls += 1", init="self.calls = 0") + UNDYING,
    "cycle": text(line="self.calls += 1", init=f"self.calls = 0; {IN_A_CYCLE}") + UNDYING,
    "waits": text(line=WAITS),
    "sleeps": text(line="import time; time.sleep(5)"),
}


@pytest.fixture(scope="module")
def own_server(environment: Environment) -> Iterator[Server]:
    folder: Path = environment.cache / "e2e" / "hostile" / "models" / "attention_processors"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / f"{name}.py").write_text(content)
    with start(environment, "hostile") as running:
        yield running


def workflow_with(server: Server, name: str, compiled: bool = False):
    workflow = example("sd15", server, steps=4, OneDiffPatchAttention={"processor": f"custom/{name}:Mine"})
    return workflow if compiled else bypass(workflow, "OneDiffCompile")


def assert_the_queue_lives(server: Server) -> None:
    assert run(server, workflow_with(server, "right"), timeout=TIMEOUT).error is None


def test_arguments_parsed_in_init_are_a_finding_and_the_picture_is_finished(own_server):
    result = run(own_server, workflow_with(own_server, "arguments"), timeout=TIMEOUT)
    assert result.error is None and len(result.pictures) == 1
    (finding,) = result.records["OneDiffPatchAttention"]["check"]["findings"]
    assert "sdpa is used instead" in finding["what"] and finding["why"] == "SystemExit: 2."
    assert_the_queue_lives(own_server)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_exit_in_the_middle_of_a_sampling_is_an_ordinary_error(own_server, compiled):
    result = run(own_server, workflow_with(own_server, "exits", compiled), timeout=TIMEOUT)
    assert result.error is not None
    line = 1 + [EXITS in line for line in FILES["exits"].splitlines()].index(True)
    for words in ("Patch Attention Processors (node ", "custom/exits:Mine raised SystemExit: gone", f"exits.py:{line}"):
        assert words in result.error
    assert_the_queue_lives(own_server)


@pytest.mark.parametrize("name, waits_for", [("endless", "endless.py to be loaded"), ("sleeps", "a call of Mine")])
def test_cancel_ends_what_would_not_end(own_server, name, waits_for):
    cancel(own_server, workflow_with(own_server, name), waits_for)


@pytest.mark.parametrize("compiled", [False, True])
def test_cancel_ends_a_call_that_never_returns_in_the_middle_of_a_sampling(own_server, compiled):
    cancel(own_server, workflow_with(own_server, "loops", compiled), "it loops")


def test_cancel_ends_a_processor_that_cannot_be_dropped(own_server):
    cancel(own_server, workflow_with(own_server, "undying"), "it is held", within=6)  # the check's, and a sampling's


@pytest.mark.long  # and in a process of its own: tests/nodes/test_prompt_ends.py
def test_a_del_in_a_reference_cycle_that_never_returns_ends_by_itself(own_server):
    """Each holds what collects for ten seconds at most; those behind the first are ended at once."""
    assert run(own_server, workflow_with(own_server, "cycle"), timeout=TIMEOUT).error is None
    assert_the_queue_lives(own_server)
    log = own_server.log.read_text(errors="replace")
    assert "OneDiff: a __del__ did not return in 10 s, at cycle.py:" in log


@pytest.mark.long  # and in a process of its own: tests/nodes/test_prompt_ends.py
def test_the_node_says_which_line_waits_where_cancel_does_not_come(own_server):
    workflow = workflow_with(own_server, "waits")
    prompt_id = own_server.queue(to_prompt(workflow, node_classes(own_server)), workflow)
    wait_for(own_server, "it waits")
    own_server.post_json("/interrupt", {})
    line = 1 + [WAITS in line for line in FILES["waits"].splitlines()].index(True)
    expected = f"Cancel cannot end waits.py:{line}: restart ComfyUI, or wait"
    until = time.monotonic() + 10
    while expected not in [record["summary"] for record in own_server.status().values()]:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert error_of(own_server.wait(prompt_id, timeout=60)) == "the run was interrupted"
    assert_the_queue_lives(own_server)
    assert [record["held"] for record in own_server.status().values()] == [None] * len(own_server.status())


def wait_for(own_server: Server, words: str, already: int = 0) -> None:
    until = time.monotonic() + 120
    while own_server.log.read_text(errors="replace").count(words) == already:
        assert time.monotonic() < until
        time.sleep(0.1)


def cancel(own_server: Server, workflow: dict[str, Any], waits_for: str, within: float = 2.5) -> None:
    already = own_server.log.read_text(errors="replace").count(waits_for)
    prompt_id = own_server.queue(to_prompt(workflow, node_classes(own_server)), workflow)
    wait_for(own_server, waits_for, already)
    pressed = time.monotonic()
    own_server.post_json("/interrupt", {})
    assert error_of(own_server.wait(prompt_id, timeout=60)) == "the run was interrupted"
    assert time.monotonic() - pressed < within, "a moment, on a busy machine"
    assert_the_queue_lives(own_server)
