"""The real ComfyUI with this pack."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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
