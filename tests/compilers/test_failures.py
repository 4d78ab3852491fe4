"""Failures of the C++ compiler in words, and which may have passed at the next sampling."""

from __future__ import annotations

import errno
import subprocess

import pytest
from onediff_pack.compilers.backends.inductor.failures import explain

OUTPUT = b"/tmp/onediff-compile-x/ab/cab.main.cpp:12:5: error: 'foo' was not declared\nanother line"


def failed(code: int, output: bytes = OUTPUT) -> Exception:
    """As torch raises it."""
    from torch._inductor.exc import CppCompileError

    command = ["g++", "/tmp/onediff-compile-x/ab/cab.main.cpp", "-D", "TORCH_INDUCTOR_CPP_WRAPPER"]
    error = CppCompileError(command, output.decode())
    error.__cause__ = subprocess.CalledProcessError(code, command, output=output)
    return error


def test_the_compilers_own_words_are_said():
    found = explain(failed(1))
    assert found.reason == "the C++ compiler failed: cab.main.cpp:12:5: error: 'foo' was not declared"
    assert not found.passing


def test_a_compiler_that_was_killed_is_said_to_be():
    found = explain(failed(-9, b""))
    assert found.reason == (
        "the C++ compiler failed: it was ended from outside (signal 9), as happens where memory runs out. Free some, "
        "and run again."
    )
    assert found.passing


@pytest.mark.parametrize(("number", "passing"), [(errno.ENOSPC, True), (errno.EACCES, False)])
def test_a_full_disk_may_have_room_again(number, passing):
    assert explain(OSError(number, "it")).passing is passing
