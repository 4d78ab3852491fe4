"""Which command a text tells people to run."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from onediff_pack.status.installing import python, shown, with_python
from onediff_pack.status.plain import plain


@pytest.mark.parametrize(
    ("executable", "started_in", "home", "windows", "expected"),
    [
        (r"C:\portable\python_embeded\python.exe", r"C:\portable", r"C:\Users\Ann", True, r"python_embeded\python.exe"),
        (r"C:\Users\Ann\c\python.exe", "D:/", r"C:\Users\Ann", True, r"%USERPROFILE%\c\python.exe"),
        (r"D:\AI tools\p\python.exe", "C:/", r"C:\Users\Ann", True, r'"D:\AI tools\p\python.exe"'),
        ("/home/ann/ComfyUI/.venv/bin/python", "/home/ann/ComfyUI", "/home/ann", False, "./.venv/bin/python"),
        ("/home/ann/venv/bin/python", "/srv", "/home/ann", False, "~/venv/bin/python"),
        ("/home/ann/my env/bin/python", "/srv", "/home/ann", False, '~/"my env/bin/python"'),
        ("/usr/bin/python3", "/srv", "/home/ann", False, "/usr/bin/python3"),
    ],
)
def test_the_python_is_written_as_it_can_be_typed(executable, started_in, home, windows, expected):
    kind = PureWindowsPath if windows else PurePosixPath
    assert shown(kind(executable), kind(started_in), kind(home), windows=windows) == expected


def test_texts_of_records_name_the_python_that_runs():
    said = f"“{python()} -m pip install triton-windows”"
    reason = "Triton is missing: run “pip install triton-windows” in ComfyUI's Python and restart ComfyUI."
    assert with_python(reason) == f"Triton is missing: run {said} and restart ComfyUI."
    assert plain({"reason": reason})["reason"] == with_python(reason)
    assert with_python(with_python(reason)) == with_python(reason)
    assert with_python("a pip of wine") == "a pip of wine"
    assert Path(sys.executable).name in python()
