"""Compiler failures in words."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from onediff_pack.checks.graph.breaks import break_of
from onediff_pack.compilers.backends.errors_in_words import in_words
from onediff_pack.compilers.backends.protocol import Failure


def failure(function):
    """How a function fails to become one graph."""
    with pytest.raises(Exception) as caught:
        torch.compile(function, backend="eager", fullgraph=True)(torch.ones(4))
    return caught.value


def logs(x):
    logging.info("%s", x.shape)  # the break itself lies in Python's library
    return x * 2


def attention_sub_quad(x):
    print("reads free memory")  # noqa: T201
    return x


def attends(x):
    return attention_sub_quad(x)


def line_of(function, offset):
    return f"compilers/test_explain.py:{function.__code__.co_firstlineno + offset}"


def test_a_graph_break_names_the_users_line():
    found = in_words(failure(logs))
    graph_break = found.graph_break
    assert graph_break is not None and graph_break["where"] == line_of(logs, 1)
    assert found.reason == f"it does not fit into one graph: {graph_break['reason']} ({graph_break['where']})."


def test_the_hosts_attention_that_reads_memory_is_named_with_its_remedy():
    found = in_words(failure(attends))
    assert found.graph_break is not None and found.graph_break["where"] == line_of(attention_sub_quad, 1)
    assert "Patch this place with sdpa" in found.reason


def test_the_file_that_a_reader_looks_for_goes_before_inner_ones():
    error = failure(lambda x: torch.nn.functional.relu(x) + logs(x))
    assert break_of(error, {__file__}).file == __file__
    assert break_of(error, around={__file__}).file != __file__


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("x"),
        MemoryError(),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 9 bytes"
        ),
    ],
)
def test_memory(error):
    assert in_words(error) == Failure("it ran out of memory.")


def test_another_error_is_told_by_its_cause():
    error = RuntimeError("outside")
    error.__cause__ = ValueError("\nthe reason\nand more")
    assert in_words(error) == Failure("ValueError: the reason")
    assert break_of(error).where is None


def test_no_folder_of_the_machine_is_told():
    for error in (
        OSError(28, "No space left on device", "/home/anna/secret/ab/cd.cpp"),
        ImportError("/home/anna/.local/lib/libfoo.so: cannot open shared object file"),
        RuntimeError(r"cannot write C:\Users\Anna\x.cpp"),
    ):
        said = in_words(error).reason
        assert not re.search(r"anna|Anna|home|Users", said), said
        assert re.search(r"cd\.cpp|libfoo\.so: cannot open|x\.cpp", said), said
