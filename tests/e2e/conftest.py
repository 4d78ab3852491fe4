"""The real ComfyUI with this pack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from editor import chromium, open_editor, use_renderer
from examples import start

from scripts.environment import Environment
from scripts.server import Server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def environment(host: Path) -> Environment:
    return Environment(Path(os.environ.get("ONEDIFF_CACHE", ROOT / ".cache")), Path(sys.executable), host)


@pytest.fixture(scope="session")
def server(environment: Environment) -> Iterator[Server]:
    """ComfyUI as it starts by default; on a CPU no graph can hold its own attention (sub-quadratic)."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # the editor keeps its settings in the server's folder
    with start(environment, f"default{worker}") as running:
        yield running


@pytest.fixture(scope="session")
def kept_server() -> Iterator[Callable[[str, Callable[[], Any]], Server]]:
    """One server of another kind, by its name, beside the default one: files of tests that follow each other share it
    (``TOGETHER`` in tests/order.py), and it ends when another kind is asked for."""
    with ExitStack() as stack:
        at_work: dict[str, Server] = {}

        def ask(kind: str, make: Callable[[], Any]) -> Server:
            if kind not in at_work:
                stack.close()
                at_work.clear()
                at_work[kind] = stack.enter_context(make())
            return at_work[kind]

        yield ask


@pytest.fixture(scope="module")
def sdpa_server(environment: Environment, kept_server: Callable[..., Server]) -> Server:
    """ComfyUI with PyTorch's attention, the default on GPUs."""
    name = f"sdpa{os.environ.get('PYTEST_XDIST_WORKER', '')}"
    return kept_server("sdpa", lambda: start(environment, name, flags=["--use-pytorch-cross-attention"]))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def opened(browser: Any, server: Any) -> Iterator[Any]:
    """An editor for the tests of one file; the next one finds it in the classic renderer."""
    page = open_editor(browser.new_page(viewport={"width": 1600, "height": 900}), server.url)
    yield page
    use_renderer(page, "classic")
    page.close()
