"""What stands in for a backend: one that counts, one that captures, and packages that are broken in some way."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

import pytest
from onediff_pack.compilers import CallSession
from passthrough import Passthrough, without_inductor
from sessions import FakeBackend, known, using

_STOOD_IN_FOR = ("oneflow", "nexfort")


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    """The one backend there is, while a test runs."""
    counting = FakeBackend()
    with using(known(counting)):
        yield counting


@pytest.fixture
def inductor() -> Iterator[Passthrough]:
    """The inductor backend with Inductor itself left out."""
    with without_inductor() as passthrough:
        yield passthrough


@pytest.fixture
def one_pair(monkeypatch):
    """Of a call of a VAE or a ControlNet, one run each way is timed."""
    monkeypatch.setattr(CallSession, "seconds", 0.0)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts a package where the child, and this process, find it first."""

    def install(name: str, code: str, compilers: str | None = None) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(textwrap.dedent(code))
        if compilers is not None:
            (folder / "compilers.py").write_text(compilers)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in _STOOD_IN_FOR}
    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] in _STOOD_IN_FOR]:
        del sys.modules[name]
    sys.modules.update(before)
