"""Entries of the compile cache with any content, found by coverage: is each read, or refused with `NotOurs`?

``python3 -m pip install atheris``, then ``python3 benchmarks/fuzz_cache.py [-max_total_time=300]`` (arguments are
libFuzzer's). Each input is tried twice: as a file, and signed as an entry of this folder, as if the signature had been
got round. Nothing but `NotOurs` may be raised, and nothing but plain relative names may come out.
"""

from __future__ import annotations

import sys
import tempfile
import types
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
pack = types.ModuleType("onediff_pack")
pack.__path__ = [str(ROOT)]
sys.modules["onediff_pack"] = pack

import atheris

with atheris.instrument_imports(include=["onediff_pack.compilers.compile_cache.store", "zipfile", "json"]):
    from onediff_pack.compilers.compile_cache import store as reading
    from onediff_pack.compilers.compile_cache.store import Entry, NotOurs, Store

KEY = "ab" * 32
FOLDER = tempfile.TemporaryDirectory(prefix="onediff-fuzz-")
STORE = Store(Path(FOLDER.name), 2**30)


def try_one(data: bytes) -> None:
    STORE.folder.joinpath(f"{KEY}.graph").write_bytes(data)
    signed = reading._MAGIC + reading._sign(STORE._secret(), KEY, data) + data
    read()
    STORE.folder.joinpath(f"{KEY}.graph").write_bytes(signed)
    read()


def read() -> None:
    try:
        entry = STORE.read(KEY)
    except NotOurs:
        return
    assert entry is not None
    assert 0 <= entry.seconds < float("inf")
    for name in entry.files:
        path = PurePosixPath(name)
        assert not path.is_absolute() and ".." not in path.parts and "\\" not in name, name


def seeds(folder: Path) -> None:
    """What this version writes, for the fuzzer to begin with."""
    for number, files in enumerate(({}, {"a/b.so": b"x" * 100}, {"fxgraph/ab/cd": b"", "k.cpp": b"int main;" * 50})):
        STORE.write(KEY, Entry(files, 1.5))
        content = STORE.folder.joinpath(f"{KEY}.graph").read_bytes()
        folder.joinpath(f"signed{number}").write_bytes(content)
        folder.joinpath(f"packed{number}").write_bytes(content[len(reading._MAGIC) + 32 :])


if __name__ == "__main__":
    corpus = tempfile.mkdtemp(prefix="onediff-corpus-")
    seeds(Path(corpus))
    atheris.Setup([*sys.argv, corpus], try_one)
    atheris.Fuzz()
