"""Compiler failures in words."""

from __future__ import annotations

import logging

import pytest
import torch
from onediff_pack.checks.graph.breaks import break_of
from onediff_pack.compilers.backends.errors_in_words import explain


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
    text, found = explain(failure(logs))
    assert found is not None and found["where"] == line_of(logs, 1)
    assert text == f"it does not fit into one graph: {found['reason']} ({found['where']})."


def test_the_hosts_attention_that_reads_memory_is_named_with_its_remedy():
    text, found = explain(failure(attends))
    assert found is not None and found["where"] == line_of(attention_sub_quad, 1)
    assert "Patch this place with sdpa" in text


def test_the_file_that_a_reader_looks_for_goes_before_inner_ones():
    error = failure(lambda x: torch.nn.functional.relu(x) + logs(x))
    assert break_of(error, {__file__}).file == __file__
    assert break_of(error, around={__file__}).file != __file__


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("CUDA error: out of memory")])
def test_memory(error):
    assert explain(error) == ("it ran out of memory.", None)


def test_another_error_is_told_by_its_cause():
    error = RuntimeError("outside")
    error.__cause__ = ValueError("\nthe reason\nand more")
    assert explain(error) == ("ValueError: the reason", None)
    assert break_of(error).where is None
