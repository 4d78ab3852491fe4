"""The warm start around one compile: what is put back and kept; and no trouble with the disk stops a compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from onediff_pack.compilers.cache import WarmStart
from onediff_pack.compilers.cache.folder import prepare
from onediff_pack.compilers.cache.store import Entry, Store
from onediff_pack.compilers.cache.warm import Place

KEY, ANOTHER = "1" * 64, "2" * 64
ENTRY = Entry({"fxgraph/ab/graph": b"compiled" * 50}, 12.5)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs Linux and root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_on_a_disk_that_is_full_a_graph_is_compiled_with_a_note_and_older_entries_stay(small_disk):
    warm = WarmStart()
    warm.place = lambda: Place(small_disk / "cache", 10**8)
    kept = Store(prepare(small_disk / "cache"), 10**8)
    kept.write(KEY, ENTRY)
    before = sorted(path.name for path in kept.folder.iterdir())
    with warm.compiling(ANOTHER) as compiling:
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "made").write_bytes(os.urandom(100_000))
    warm.keep(compiling, 1.0)
    assert "No space left on device" in warm.notes[0]
    assert sorted(path.name for path in kept.folder.iterdir()) == before
    assert kept.read(KEY) == ENTRY


@pytest.mark.parametrize("broken", ["folder", "limit", "read"])
def test_no_trouble_with_the_folder_keeps_a_graph_from_being_compiled(tmp_path, monkeypatch, broken):
    warm, place = WarmStart(), tmp_path / "cache"
    warm.place = lambda: Place(place, 10**6)
    if broken == "folder":
        place.write_text("a file")
    elif broken == "read":
        monkeypatch.setattr(Store, "read", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    else:
        monkeypatch.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with warm.compiling(KEY) as compiling:
        (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "made").write_text("compiled")
    warm.keep(compiling, 1.0)
    assert len(warm.notes) == 1
    assert str(tmp_path) not in warm.notes[0], "records and pictures carry it"


def test_a_damaged_entry_is_dropped_with_a_note_and_written_anew(tmp_path):
    place = tmp_path / "cache"

    def start():
        """A new process, as far as the warm start can tell."""
        warm = WarmStart()
        warm.place = lambda: Place(place, 10**6)
        return warm

    def compile_(warm):
        with warm.compiling(KEY) as compiling:
            made = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "ab" / "made.so"
            compiling.hit = made.exists()
            made.parent.mkdir(exist_ok=True)
            made.write_bytes(b"compiled")
        warm.keep(compiling, 9.0)
        return compiling

    assert compile_(start()).saved_from is None
    assert compile_(start()).saved_from == 9.0
    (place / f"{KEY}.graph").write_bytes(b"damaged")
    warm = start()
    assert compile_(warm).saved_from is None
    assert len(warm.notes) == 1
    assert "was not used: it is damaged" in warm.notes[0]
    assert compile_(start()).saved_from == 9.0
    assert start().clear().count == 1
    assert compile_(start()).saved_from is None


def test_a_compile_that_left_nothing_new_leaves_the_entry_as_it_is(tmp_path):
    warm = WarmStart()
    warm.place = lambda: Place(tmp_path / "cache", 10**6)
    Store(prepare(tmp_path / "cache"), 10**6).write(KEY, ENTRY)
    with warm.compiling(KEY) as compiling:
        compiling.hit = False
    warm.keep(compiling, 1.0)
    assert Store(tmp_path / "cache", 10**6).read(KEY) == ENTRY


def test_clearing_does_not_wait_for_a_compile_and_what_it_compiles_is_not_kept(tmp_path):
    warm = WarmStart()
    warm.place = lambda: Place(tmp_path / "cache", 10**6)
    with warm.compiling(KEY) as compiling:
        before = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        (before / "made").write_text("compiled")
        clearing = threading.Thread(target=warm.clear)
        clearing.start()
        clearing.join(timeout=5)
        assert not clearing.is_alive()
    warm.keep(compiling, 1.0)
    assert not list((tmp_path / "cache").glob("*.graph"))
    with warm.compiling(KEY):
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) != before


def test_inductors_folder_is_ours_only_while_one_of_our_graphs_compiles(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    with WarmStart().compiling(KEY):
        inside = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert inside.stat().st_mode & 0o777 == 0o700 or os.name != "posix"
        assert os.environ["TRITON_CACHE_DIR"] == str(inside / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert "TRITON_CACHE_DIR" not in os.environ
