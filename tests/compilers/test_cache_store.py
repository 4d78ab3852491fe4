"""The store of compiled graphs: what is taken from it, what never is, and what stays when things go wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from onediff_pack.compilers.cache import store
from onediff_pack.compilers.cache.folder import CacheUnusable, prepare
from onediff_pack.compilers.cache.store import Entry, NotOurs, Store

ENTRY = Entry({"fxgraph/ab/graph": b"compiled" * 50, "cd/kernel.so": bytes(range(256))}, 12.5)
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no owner and mode bits")


@pytest.fixture
def folder(tmp_path):
    return prepare(tmp_path / "cache")


@pytest.fixture
def kept(folder):
    found = Store(folder, 10**6)
    found.write("one", ENTRY)
    return found


def test_what_was_kept_comes_back_in_another_process_of_the_same_user(kept, folder):
    assert Store(folder, 10**6).read("one") == ENTRY
    assert kept.read("two") is None


@posix
def test_nobody_else_can_read_or_write_what_is_kept(kept, folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("cut", [0, 10, 40, 200, -1])
def test_a_truncated_file_is_not_used(kept, folder, cut):
    path = folder / "one.graph"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(NotOurs, match=r"one\.graph was not used"):
        kept.read("one")


def test_a_single_changed_bit_is_noticed(kept, folder):
    path = folder / "one.graph"
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(NotOurs):
            kept.read("one")


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["ONEDIFF_TEST_TRAP"])),)


def test_a_foreign_file_is_neither_unpickled_nor_opened(kept, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDIFF_TEST_TRAP", str(tmp_path / "sprung"))
    (folder / "two.graph").write_bytes(pickle.dumps(Harmful()))
    (folder / "two.graph").chmod(0o600)
    with pytest.raises(NotOurs):
        kept.read("two")
    assert not (tmp_path / "sprung").exists()


def test_an_entry_under_another_name_is_not_used(kept, folder):
    shutil.copy(folder / "one.graph", folder / "two.graph")
    (folder / "two.graph").chmod(0o600)
    with pytest.raises(NotOurs):
        kept.read("two")


def test_a_copy_of_the_whole_folder_with_its_key_holds_nothing(kept, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(NotOurs):
        Store(prepare_copy(tmp_path / "copy"), 10**6).read("one")


def prepare_copy(copy: Path) -> Path:
    copy.chmod(0o700)
    return prepare(copy)


@posix
def test_a_file_that_others_may_write_is_not_used(kept, folder):
    (folder / "one.graph").chmod(0o666)
    with pytest.raises(NotOurs, match="not a file of this user alone"):
        kept.read("one")


@posix
def test_a_link_is_not_followed(kept, folder, tmp_path):
    shutil.move(folder / "one.graph", tmp_path / "elsewhere")
    (folder / "one.graph").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((NotOurs, OSError)):
        kept.read("one")


def test_a_key_file_that_was_cut_off_is_made_anew_and_the_old_entries_are_foreign(kept, folder):
    (folder / "key").write_bytes(b"short")
    with pytest.raises(NotOurs):
        kept.read("one")
    kept.write("one", ENTRY)
    assert kept.read("one") == ENTRY


@posix
@pytest.mark.parametrize(("mode", "command"), [(0o777, "chmod 700"), (0o750, "chmod 700")])
def test_an_open_folder_is_refused_with_the_command_that_mends_it(tmp_path, mode, command):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(CacheUnusable, match=command):
        prepare(tmp_path / "cache")


@posix
def test_a_folder_that_anybody_could_exchange_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(CacheUnusable, match="can be written by everybody"):
        prepare(tmp_path / "cache")
    tmp_path.chmod(0o1777)  # as /tmp is: others cannot replace what is there
    prepare(tmp_path / "cache")
    tmp_path.chmod(0o700)


@posix
def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = prepare(tmp_path / "cache")
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(CacheUnusable, match="belongs to another user"):
        prepare(folder)


def test_a_path_that_cannot_be_a_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusable, match="ONEDIFF_COMPILE_CACHE"):
        prepare(tmp_path / "file" / "cache")
    with pytest.raises(CacheUnusable, match="not an absolute path"):
        prepare(Path("cache"))


def test_the_entry_that_was_not_used_for_longest_goes_first(folder):
    kept = Store(folder, 10**6)
    big = Entry({"a/b": os.urandom(1000)}, 1.0)
    for age, key in enumerate(("new", "read", "old")):
        kept.write(key, big)
        os.utime(folder / f"{key}.graph", (time.time() - 100 * age,) * 2)
    size = (folder / "new.graph").stat().st_size
    assert kept.read("read")
    small = Store(folder, int(2.5 * size))
    small.trim()
    assert sorted(path.stem for path in folder.glob("*.graph")) == ["new", "read"]
    small.write("another", big)
    assert sorted(path.stem for path in folder.glob("*.graph")) == ["another", "read"]


def test_one_entry_above_the_limit_is_not_kept(folder):
    Store(folder, 500).write("big", Entry({"a/b": os.urandom(1000)}, 1.0))
    assert not list(folder.glob("*.graph"))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_entry_and_nothing_else(kept, folder, monkeypatch, call):
    before = sorted(path.name for path in folder.iterdir())

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, call, full)
    with pytest.raises(OSError, match="No space"):
        kept.write("one", Entry({"x": b"new"}, 1.0))
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert kept.read("one") == ENTRY


def _python(code: str, folder: Path) -> subprocess.Popen:
    """A process with this store, without torch: it must not matter who else is there."""
    head = f"""
        import importlib.util, os, sys, types
        for name in ("pack", "pack.cache"):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [{str(Path(store.__file__).parent)!r}]
        from pack.cache.store import Entry, NotOurs, Store
        from pathlib import Path
        kept = Store(Path({str(folder)!r}), 10**8)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code)])


@posix
def test_killed_in_the_middle_of_writing_again_and_again_nothing_is_ever_damaged(kept, folder):
    writing = """
        while True:
            kept.write("one", Entry({"a/b": os.urandom(1) * 3_000_000 + os.urandom(300_000)}, 2.0))
            Path(kept.folder.parent / "wrote").touch()
    """
    for number in range(5):
        (folder.parent / "wrote").unlink(missing_ok=True)
        process = _python(writing, folder)
        until = time.monotonic() + 30
        while not (folder.parent / "wrote").exists() and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.013 * number)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert kept.read("one").seconds == 2.0
    leftovers = list(folder.glob("*.tmp"))
    for path in leftovers:
        os.utime(path, (time.time() - 4000,) * 2)
    kept.trim()
    assert not list(folder.glob("*.tmp"))


def test_two_processes_that_write_read_and_trim_one_folder_do_not_disturb_each_other(folder):
    busy = """
        kept.limit = 30_000
        for turn in range(150):
            key = str(turn % 7)
            try:
                found = kept.read(key)
                assert found is None or len(set(found.files["a/b"])) == 1, "a torn entry"
            except FileNotFoundError:
                pass
            kept.write(key, Entry({"a/b": os.urandom(1) * 20_000}, 1.0))
    """
    processes = [_python(busy, folder), _python(busy, folder)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert all(Store(folder, 10**6).read(path.stem) for path in folder.glob("*.graph"))
