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
from order import shared_by

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


_kept: dict[str, Server] = {}
_kept_until = ExitStack()


@pytest.fixture(scope="session")
def kept_server() -> Callable[[str, Callable[[], Any]], Server]:
    """A server of another kind, by its name, beside the default one. Files that share it follow each other
    (``TOGETHER`` in tests/order.py), and it ends after the last of them."""

    def ask(kind: str, make: Callable[[], Any]) -> Server:
        if kind not in _kept:
            _kept[kind] = _kept_until.enter_context(make())
        return _kept[kind]

    return ask


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    if nextitem is None or shared_by(nextitem.path.name) != shared_by(item.path.name):
        _kept.clear()
        _kept_until.close()


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
