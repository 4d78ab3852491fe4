"""Files that cannot be listed: none of them keeps the others, or the node itself, out of the list."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
from typing import Any

import pytest
from onediff_pack.patching.user_code import Cancel
from onediff_pack.processors.authored.make import CannotLoad
from onediff_pack.processors.sources import diffusers_classes as from_diffusers
from onediff_pack.processors.sources import listing, pieces, user_files
from onediff_pack.processors.sources.custom import CustomProcessors
from onediff_pack.processors.sources.latest import Latest

MINE = "class Mine:\n    level = 'kernel'\n"
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "models" / "attention_processors"
    path.mkdir(parents=True)
    (path / "right.py").write_text(MINE)
    return path


@pytest.fixture
def custom(folder):
    return CustomProcessors(lambda: [folder])


def a_pipe(file):
    os.mkfifo(file)


def a_loop(file):
    file.symlink_to(file)


def a_device(file):
    file.symlink_to("/dev/zero")


def a_link_to_nothing(file):
    file.symlink_to(file.parent / "gone")


def too_large(file):
    file.write_text(MINE + "# " + "x" * 20_000_000)


def no_python(file):
    file.write_text("made = (  # of some class\n")


def not_utf_8(file):
    with open(os.fsencode(file.parent) + b"/\xff.py", "w") as other:
        other.write(MINE)


def two_lines(file):
    (file.parent / "compiled\n1.62×.py").write_text(MINE)


@POSIX
@pytest.mark.parametrize(
    ("make", "name", "why"),
    [
        (two_lines, "compiled\\n1.62×.py", "Its name has a line break or another control character."),
        (a_pipe, "bad.py", "It is a pipe, not a file."),
        (a_loop, "bad.py", "It is a link that leads back to itself."),
        (a_device, "bad.py", "It is a device, not a file."),
        (a_link_to_nothing, "bad.py", "It is a link that leads nowhere."),
        (too_large, "bad.py", "It is larger than 256 KiB, the most that is read."),
        (no_python, "bad.py", "Python cannot read it: SyntaxError in line 1."),
        (not_utf_8, "\\udcff.py", "Its name is not in UTF-8."),
    ],
)
def test_what_cannot_be_listed_is_said_once_and_the_others_are_listed(custom, folder, caplog, make, name, why):
    make(folder / "bad.py")
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert custom.names() == custom.names() == ["custom/right:Mine"]
    assert time.monotonic() - start < 5
    (one,) = custom.unlisted()
    assert (one.shown, one.why) == (f"models/attention_processors/{name}", why)
    assert one.fix.endswith(".")
    assert len(caplog.records) == 1
    assert why in caplog.text
    assert str(folder) not in caplog.records[0].getMessage()
    if name == "bad.py":
        with pytest.raises(CannotLoad) as refused:
            custom.load("custom/bad:Mine")
        assert (refused.value.what, refused.value.why) == ("cannot be listed", why)
        assert custom.fingerprint("custom/bad:Mine") == ""


@pytest.mark.parametrize("text", ["x = " + "1 + " * 30_000 + "1\n", "x = " + "-" * 50_000 + "1\n"])
def test_a_file_that_is_too_deep_for_pythons_parser_is_listed_and_choosing_it_says_why(custom, folder, text):
    """Deep enough for the higher limit too that Inductor sets for the whole process."""
    (folder / "deep.py").write_text(text + MINE)
    assert custom.names() == ["custom/deep:Mine", "custom/right:Mine"]
    with pytest.raises(CannotLoad, match=r"deep.py:\d+\) cannot be loaded\. (RecursionError|MemoryError)"):
        custom.load("custom/deep:Mine")


@pytest.mark.parametrize("coding", ["hex", "rot13", "zlib", "nonsense"])
@pytest.mark.parametrize("size", [10, 20_000], ids=["small", "large"])
def test_a_file_in_a_coding_that_is_none_of_texts_keeps_nobody_out(custom, folder, coding, size):
    (folder / "bad.py").write_text(f"# -*- coding: {coding} -*-\n{MINE}# {'x' * size}\n")
    assert "custom/right:Mine" in custom.names()
    with pytest.raises(CannotLoad, match=r"bad.py"):
        custom.load("custom/bad:Mine")


def test_whatever_goes_wrong_with_one_file_the_others_are_listed(custom, folder, monkeypatch):
    (folder / "bad.py").write_text(MINE)
    names = listing.class_names

    def fails(path):
        if path.name == "bad.py":
            raise LookupError("'hex' is not a text encoding")
        return names(path)

    monkeypatch.setattr(listing, "class_names", fails)
    assert custom.names() == ["custom/right:Mine"]
    (one,) = custom.unlisted()
    assert one.why == "It cannot be listed: LookupError: 'hex' is not a text encoding."


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_the_system_refuses_to_read_is_said(custom, folder, monkeypatch, error):
    """The tests may run as root, whom nothing is forbidden: the refusal is made here."""
    read = user_files.read_source
    (folder / "bad.py").write_text(MINE)

    def refuse(path, *most):
        if path.name == "bad.py":
            raise error
        return read(path, *most)

    monkeypatch.setattr(user_files, "read_source", refuse)
    assert custom.names() == ["custom/right:Mine"]
    (one,) = custom.unlisted()
    assert one.shown.endswith("/bad.py")
    assert error.strerror in one.why


def test_a_folder_that_cannot_be_read_is_said_for_its_files(custom, folder, monkeypatch):
    scan = os.scandir
    (folder / "sub").mkdir()

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    assert custom.names() == ["custom/right:Mine"]
    with pytest.raises(CannotLoad, match=r"models/attention_processors/sub.*cannot be listed.*Permission denied"):
        custom.load("custom/sub/mine:Mine")


def test_a_file_that_vanishes_while_it_is_listed_is_no_longer_there(custom, folder, monkeypatch):
    (folder / "bad.py").write_text(MINE)
    check = user_files._check_regular

    def vanish(status):
        (folder / "bad.py").unlink(missing_ok=True)
        check(status)

    monkeypatch.setattr(user_files, "_check_regular", vanish)
    assert custom.names() == ["custom/right:Mine"]
    assert custom.unlisted() == []


@POSIX
def test_links_are_followed_and_each_folder_is_listed_once(custom, folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.py").write_text(MINE)
    (tmp_path / "elsewhere.py").write_text(MINE)
    (folder / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    for name in ("a", "b", "sub/c", "sub/d"):  # followed, each would double what is found
        (folder / name).symlink_to(folder)
    (folder / "0").symlink_to(folder / "sub")
    assert custom.names() == ["custom/linked:Mine", "custom/right:Mine", "custom/sub/deep:Mine"]
    assert custom.unlisted() == []


def test_what_is_listed_has_limits_and_that_is_said(folder, monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 3)
    for n in range(5):
        (folder / f"a{n}.py").write_text(MINE)
    listed = listing.list_files([folder])
    assert (len(listed.files), listed.unlisted[0].why) == (
        3,
        "It is listed in part: it holds more than 3 Python files.",
    )
    assert "longer than" in listing.list_files([folder], seconds=-1).unlisted[0].why
    (folder / "a0.py").write_text("".join(f"class C{n}:\n    level = 'kernel'\n" for n in range(200)))
    listed = listing.list_files([folder])
    assert len(listed.classes["a0"]) == listing.MOST_CLASSES
    assert "It has 200 processors" in listed.unlisted[0].why


def test_a_disk_that_does_not_answer_holds_up_nobody_for_long(custom, folder, monkeypatch):
    assert custom.names() == ["custom/right:Mine"]
    before = custom.fingerprint("custom/right:Mine")
    answers = threading.Event()
    scan = os.scandir
    monkeypatch.setattr(listing.os, "scandir", lambda path: answers.wait(20) and scan(path))
    (folder / "new.py").write_text(MINE)
    start = time.monotonic()
    try:
        for _ in range(20):
            assert custom.names() == ["custom/right:Mine"], "the last list"
        assert custom.fingerprint("custom/right:Mine") == before
        assert time.monotonic() - start < 3
        assert "still being read" in custom.unlisted()[-1].why

        def cancel():
            raise InterruptedError

        with pytest.raises(InterruptedError):
            custom.load("custom/right:Mine", cancel=Cancel(cancel, InterruptedError))
    finally:
        answers.set()
    while custom.unlisted() and time.monotonic() < start + 20:
        time.sleep(0.05)
    assert custom.names() == ["custom/new:Mine", "custom/right:Mine"]
    assert custom.unlisted() == []


BODY = "".join(f"        x{n} = q[{n}] + k[{n}] * (v[{n}] + {n}) if heads else q\n" for n in range(290))


def a_large_file(first: str = "Mine", classes: int = 14) -> str:
    """Of some 230 kB: one processor, parts that are none, and a text that looks like code."""
    head = f"class {first}:\n    def forward(self, q, k, v, heads):\n{BODY}\n"
    parts = [f"class Part{n}:\n    def forward(self, x, q, k, v, heads):\n{BODY}\n" for n in range(1, classes)]
    return f'"""Made so:\n\nclass Text:\n    level = 1\n"""\n{head}{"".join(parts)}'


@pytest.mark.serial
def test_many_large_files_hold_up_whoever_asks_for_half_a_second_and_no_other_thread(custom, folder):
    """Python's parser lets no other thread run while it is at work on one text."""
    for n in range(60):
        (folder / f"large{n}.py").write_text(a_large_file(f"Mine{n}"))
    gaps, ended = [], threading.Event()

    def beat():
        last = time.perf_counter()
        while not ended.is_set():
            time.sleep(0.002)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    beating = threading.Thread(target=beat)
    gc.freeze()  # a collection over all that torch imported stops every thread for 0.1 s, whatever runs
    beating.start()
    try:
        start = time.perf_counter()
        names = custom.names()
        took = time.perf_counter() - start
        time.sleep(1)
    finally:
        ended.set()
        beating.join()
        gc.unfreeze()
    assert "custom/right:Mine" in names
    assert took < 0.5 + 0.5, "half a second, and this thread's turn on a busy machine; all files take eight"
    assert sorted(gaps)[-3] < 0.1, "as the event loop of ComfyUI"


@pytest.mark.parametrize(
    "text",
    [
        a_large_file(),
        a_large_file().replace("class Part1:", "@some.decorator(\n1,\n)\nclass Part1(\n    Mine,\n):"),
        "# " + "x" * 70_000 + "\r\n" + a_large_file(classes=2).replace("\n", "\r\n"),
        "class First:\n    '''A text\nclass Text:\n    level = 1\n'''\n    level = 'kernel'\n" + a_large_file(),
        "if True:\n    class Inner:\n        level = 1\n" + a_large_file(),
        a_large_file() + "\nclass Whole(nn.Module):\n    level = (\n'kernel'\n)\n" + "# more\n" * 100,
        a_large_file() + "class Used(nn.Module):\n    pass\n\n\nclass Uses:\n    inner = Used()\n",
        a_large_file() + "class Broken(:\n",
        "text = 'a\\\nclass Text:\\\n    level = 1'\n" + a_large_file(),
    ],
)
def test_a_large_file_is_listed_in_pieces_as_it_would_be_in_one(folder, monkeypatch, text):
    (folder / "large.py").write_bytes(text.encode())
    in_pieces = user_files.class_names(folder / "large.py")
    monkeypatch.setattr(pieces, "LARGE", 10**9)
    (folder / "other.py").write_bytes(text.encode())
    assert in_pieces == user_files.class_names(folder / "other.py")
    assert "Mine" in in_pieces


def test_a_parser_that_another_thread_has_disturbed_is_asked_again(folder, monkeypatch):
    """As Python 3.11's does now and then; the names that were made without it were kept."""
    import ast

    parse, calls = ast.parse, itertools.count()

    def disturbed(source):
        if next(calls) % 3 < 2:
            raise SystemError("AST constructor recursion depth mismatch (before=15, after=8)")
        return parse(source)

    (folder / "right.py").write_text('"""As in\nclass Text:\n    level = 1\n"""\n' + a_large_file(classes=1))
    with monkeypatch.context() as patch:  # pytest parses too
        patch.setattr(ast, "parse", disturbed)
        names = user_files.class_names(folder / "right.py")
    assert "Text" not in names and "Mine" in names


def test_an_answer_comes_in_time_also_when_an_older_one_is_being_made():
    latest = Latest(lambda: time.sleep(0.4), None)
    latest.start()
    time.sleep(0.01)
    start = time.perf_counter()
    latest.get()
    assert time.perf_counter() - start < 0.6


def test_an_answer_is_never_older_than_the_question():
    count = [0]

    def slow():
        count[0] += 1
        made = count[0]
        time.sleep(0.05)
        return made

    latest = Latest(slow, 0)
    latest.start()
    assert latest.get(patience=10) == 2, "what had begun before may have missed something"
    assert latest.get(patience=10, asked=latest.start()) == 3


@POSIX
def test_a_broken_diffusers_is_said_and_lists_nothing(tmp_path, monkeypatch, caplog):
    pipe = tmp_path / "attention_processor.py"
    os.mkfifo(pipe)
    latest: Latest[Any] = Latest(from_diffusers._list, ([], None))
    monkeypatch.setattr(from_diffusers, "_LISTING", latest)
    monkeypatch.setattr(from_diffusers, "source_file", lambda: pipe)
    with caplog.at_level(logging.WARNING):
        assert from_diffusers.listed() == from_diffusers.listed() == []
    assert len(caplog.records) == 1
    (one,) = from_diffusers.unlisted()
    assert "It is a pipe, not a file" in one.why
    with pytest.raises(CannotLoad, match=r"cannot be read.*It is a pipe, not a file"):
        from_diffusers.load("diffusers/AttnProcessor")

    def deep():
        raise RecursionError("too deep")

    monkeypatch.setattr(from_diffusers, "source_file", deep)
    assert from_diffusers.listed() == []
    assert from_diffusers.unlisted()[0].why == "RecursionError: too deep."


def test_a_file_whose_module_answers_as_it_likes_is_loaded_like_others(custom, folder):
    (folder / "odd.py").write_text(
        "import sys, types\n"
        "from torch import nn\n"
        "class Odd(types.ModuleType):\n"
        "    @property\n"
        "    def __dict__(self):\n"
        "        raise SystemExit\n"
        "class Mine(nn.Module):\n"
        "    def forward(self, q, k, v, heads, mask=None):\n"
        "        return q\n"
        "sys.modules[__name__].__class__ = Odd\n"
    )
    assert type(custom.load("custom/odd:Mine")).__name__ != ""
    assert "custom/odd:Mine" in custom.names()
