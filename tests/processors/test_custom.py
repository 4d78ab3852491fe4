"""The user's own processor files: what is listed, what is loaded, and what is said when one is broken."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
import torch
from onediff_pack.patching.user_code import Cancel
from onediff_pack.processors import Processor, written
from onediff_pack.processors.authored.make import CannotLoad, make
from onediff_pack.processors.sources import custom as custom_module
from onediff_pack.processors.sources.custom import PRIVATE, CustomProcessors
from onediff_pack.processors.sources.user_files import UserFile
from torch import nn

MODULE = '''
import torch
from torch import nn


class Gain(nn.Module):
    """Module level, told by its arguments."""

    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, value=None):
        return hidden_states * 2
'''

SLEEPING_INIT = "    def __init__(self):\n        import time; time.sleep(3)\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "models" / "attention_processors"
    path.mkdir(parents=True)
    return path


@pytest.fixture
def custom(folder):
    yield CustomProcessors(lambda: [folder])
    for name in [name for name in sys.modules if name.startswith(PRIVATE)]:
        del sys.modules[name]


def write(folder, name, text):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def factor(processor: nn.Module) -> float:
    """By what the class that was loaded multiplies."""
    return written(processor)(None, torch.ones(1)).item()


def refused(custom, name, **options) -> CannotLoad:
    with pytest.raises(CannotLoad) as error:
        custom.load(name, **options)
    finding = error.value
    assert finding.why.endswith(".") and finding.fix.endswith("."), (finding.why, finding.fix)
    return finding


def assert_nothing_runs():
    """What was left behind ends."""
    until = time.monotonic() + 20
    while running := [thread.name for thread in threading.enumerate() if thread.name.startswith("OneDiff:")]:
        assert time.monotonic() < until, running
        time.sleep(0.02)


def test_public_processor_classes_of_python_files_are_listed_and_nothing_runs(custom, folder):
    write(
        folder,
        "mine.py",
        """
raise SystemExit("nobody may run this to list it")
from torch import nn
from diffusers.models.attention_processor import AttnProcessor2_0
class Kernel(nn.Module):
    def forward(self, q, k, v, heads, mask=None): ...
class Called(nn.Module):
    def __call__(self, attn, hidden_states): ...
class Plain:
    def __call__(self, attn, hidden_states): ...
class Bare(nn.Module):
    pass
class Declared(nn.Module):
    level = "kernel"
    def forward(self, *args): ...
class Derived(AttnProcessor2_0):
    pass
class Gate(nn.Module):
    def forward(self, x): ...
class Gated(nn.Module):
    def __init__(self):
        self.gate = Gate()
    def forward(self, attn, hidden_states): ...
class _Private(nn.Module):
    def forward(self, attn, hidden_states): ...
class Settings:
    pass
""",
    )
    write(folder, "below/deep.py", MODULE)
    for name in ("notes.txt", "weights.safetensors", ".hidden.py", "__init__.py", "__pycache__/x.py", ".git/x.py"):
        write(folder, name, MODULE)
    assert custom.names() == [
        "custom/below/deep:Gain",
        *(f"custom/mine:{c}" for c in ("Kernel", "Called", "Plain", "Bare", "Declared", "Derived", "Gated")),
    ]


def test_nothing_is_listed_where_there_is_no_folder(tmp_path):
    assert CustomProcessors(lambda: [tmp_path / "none"]).names() == []


def test_the_first_folder_wins(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        write(folder, "mine.py", MODULE.replace("* 2", f"* {len(folder.name) + (folder.name == 'b')}"))
    custom = CustomProcessors(lambda: folders)
    assert custom.names() == ["custom/mine:Gain"]
    assert factor(custom.load("custom/mine:Gain")) == 1


def test_a_class_is_loaded_once_and_ready_to_run(custom, folder):
    write(folder, "mine.py", MODULE)
    processor = custom.load("custom/mine:Gain")
    assert isinstance(processor, Processor)
    assert processor.level == "module"
    assert not processor.training
    assert custom.load("custom/mine:Gain") is processor, "one instance, so that equal blocks share a graph"


def test_weights_of_its_own_go_to_the_models_device_and_dtype(custom, folder):
    weighted = "    def __init__(self):\n        super().__init__()\n        self.w = nn.Linear(2, 2)"
    write(folder, "mine.py", MODULE + weighted)
    with torch.inference_mode():
        half = custom.load("custom/mine:Gain", torch.device("cpu"), torch.float16)
        full = custom.load("custom/mine:Gain", torch.device("cpu"), torch.float32)
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert not any(p.is_inference() or p.requires_grad for p in full.parameters())
    assert custom.load("custom/mine:Gain", torch.device("cpu"), torch.float16) is half


def test_an_edit_is_picked_up_also_one_of_the_same_size_in_the_same_instant(custom, folder):
    file = write(folder, "mine.py", MODULE)
    stamp = file.stat()
    assert factor(custom.load("custom/mine:Gain")) == 2
    before = custom.fingerprint("custom/mine:Gain")
    write(folder, "mine.py", MODULE.replace("* 2", "* 3"))
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert custom.fingerprint("custom/mine:Gain") != before
    assert factor(custom.load("custom/mine:Gain")) == 3


@pytest.mark.parametrize("where", ["the file", "__init__"])
@pytest.mark.parametrize("sets", ["torch.set_default_dtype(torch.float64)", "torch.set_default_device('meta')"])
def test_pytorchs_defaults_stay_as_they_were(custom, folder, where, sets):
    """People set them for their own weights, and would set them for all of ComfyUI."""
    init = f"    def __init__(self):\n        super().__init__()\n        {sets}\n"
    write(folder, "sets.py", MODULE + (init if where == "__init__" else f"\n{sets}\n"))
    try:
        assert factor(custom.load("custom/sets:Gain")) == 2
        made = torch.ones(1)
        assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_names_that_are_not_listed_reach_no_file(custom, folder, tmp_path):
    write(folder, "mine.py", MODULE)
    write(tmp_path, "outside.py", "raise SystemExit('run')\n" + MODULE)
    for name in (
        "custom/../../outside:Gain",
        f"custom/{tmp_path}/outside:Gain",
        "custom/mine:__builtins__",
        "custom/mine:nn",
        "custom/mine.Gain",
        "custom/mine:Gain:Gain",
        "mine:Gain",
        "custom/",
        "custom/:",
    ):
        finding = refused(custom, name)
        assert "is not among the classes in models/attention_processors" in finding.what
        assert "custom/mine:Gain" in finding.fix
        assert custom.fingerprint(name) == ""


BROKEN = {
    "a syntax error": ("class Gain(nn.Module)\n    pass\n", 1, "SyntaxError: expected ':'"),
    "a missing package": ("import torch\nimport no_such\nclass Gain: level = 'kernel'\n", 2, "named 'no_such'"),
    "an error at import": (
        MODULE + "\n\ndef f():\n    return 1 / 0\n\nf()\n", 14, "ZeroDivisionError: division by zero",
    ),
    "an exit at import": (MODULE + "\nraise SystemExit(3)\n", 12, "SystemExit: 3"),
    "an __init__ that raises": (
        MODULE + "    def __init__(self):\n        raise ValueError('no GPU')\n", 12, "ValueError: no GPU",
    ),
    "an __init__ that needs more": (
        MODULE + "    def __init__(self, width, heads): ...\n", 11, "its __init__ needs width, heads",
    ),
    "limits of another kind": (MODULE + "    limits = {'gpus': 2}\n", 6, "declares limits that are not understood"),
    "limits that are none": (MODULE + "    limits = 3\n", 6, "limits have to be a dict (they are of type int)"),
    "limits without an end": (
        MODULE + "    limits = {'devices': iter(int, 1)}\n", 6, "devices has to be a set of at most 64",
    ),
    "huge limits": (MODULE + "    limits = {'max_head_dim': -10**5000}\n", 6, "a whole number from 1 to 2147483647"),
    "limits of words": (MODULE + "    limits = {'dtypes': {'float16'}}\n", 6, "have to be of type dtype"),
    "limits that no set holds": (
        MODULE + "    limits = {'head_dims': 5}\n", 6, "head_dims has to be a set of at most 64 (it is of type int)",
    ),
    "limits that exit when they are asked": (
        MODULE + "    limits = {'head_dims': type('B', (), {'__contains__': lambda s, x: exit(3)})()}\n", 6,
        "head_dims has to be a set of at most 64 (it is of type B)",
    ),
    "limits of letters": (MODULE + "    limits = {'head_dims': {'40'}}\n", 6, "have to be whole numbers from 1 (one"),
    "a capability in words": (MODULE + "    limits = {'capability': '8.0'}\n", 6, "two whole numbers, such as (8, 0)"),
    "masks of another kind": (MODULE + "    limits = {'masks': {'causal'}}\n", 6, "(one is 'causal')"),
    "no masks": (MODULE + "    limits = {'masks': None}\n", 6, "masks has to be a set of at most 64"),
    "gqa in words": (MODULE + "    limits = {'gqa': 'no'}\n", 6, "gqa has to be True or False"),
    "a device in two lines": (MODULE + "    limits = {'devices': {'\\n<b>'}}\n", 6, "one is '\\n<b>'"),
    "limits that change": (
        "import sys\nclass Gain(sys.modules['onediff_pack.processors'].ModuleProcessor):\n    level = 'module'\n"
        "    limits = property(lambda self: {'devices': {'cpu'}})\n", 2, "limits is a property, which may say",
    ),
    "the pack's own limits, of another kind": (
        MODULE + "    import sys\n    limits = sys.modules['onediff_pack.processors'].Limits(head_dims=5)\n", 6,
        "head_dims has to be a set",
    ),
    "limits that raise": (
        MODULE + "    @property\n    def limits(self):\n        raise SystemExit('gone')\n", 13, "SystemExit: gone",
    ),
    "an __init__ that parses arguments": (
        MODULE + "    def __init__(self):\n        import argparse\n"
        "        argparse.ArgumentParser().parse_args(['--none'])\n", 13, "SystemExit: 2",
    ),
    "an __init__ that is interrupted": (
        MODULE + "    def __init__(self):\n        raise KeyboardInterrupt\n", 12, "KeyboardInterrupt",
    ),
    "an __init__ that closes": (MODULE + "    def __init__(self):\n        raise GeneratorExit\n", 12, "GeneratorExit"),
    "a message that cannot be read": (
        MODULE + "    def __init__(self):\n        raise Odd\n\n\nclass Odd(Exception):\n    def __str__(self):\n"
        "        raise SystemExit\n", 12, "Odd: its message cannot be read",
    ),
    "a metaclass that raises": (
        "class Meta(type):\n    def __getattribute__(cls, name):\n        raise SystemExit(name)\n\n\n"
        "class Gain(metaclass=Meta):\n    def forward(self, attn, hidden_states): ...\n", 3, "SystemExit: ",
    ),
    "a signature that raises": (
        MODULE + "\nclass Signed:\n    @property\n    def __signature__(self):\n        raise SystemExit('no')\n"
        "    def __call__(self, *a): ...\n\n\nGain.forward = Signed()\n", 15, "SystemExit: no",
    ),
    "a name that is no class any more": (MODULE + "\nGain = 3\n", None, "has no class Gain"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_said_with_path_and_line(custom, folder, case):
    text, line, words = BROKEN[case]
    write(folder, "sub/mine.py", text)
    write(folder, "right.py", MODULE)
    assert custom.names() == ["custom/right:Gain", "custom/sub/mine:Gain"], "it can be chosen, to be told what is wrong"
    finding = refused(custom, "custom/sub/mine:Gain")
    assert words in f"{finding.what} {finding.why}"
    assert finding.where == "models/attention_processors/sub/mine.py" + (f":{line}" if line else "")
    assert str(folder) not in str(finding)
    assert factor(custom.load("custom/right:Gain")) == 2, "the other file works"
    write(folder, "sub/mine.py", MODULE)
    assert factor(custom.load("custom/sub/mine:Gain")) == 2, "mended, it is read anew"


def test_a_class_without_a_usable_forward_is_handed_over_for_the_check(custom, folder):
    write(folder, "mine.py", "from torch import nn\nclass Bare(nn.Module):\n    pass\n")
    module = custom.load("custom/mine:Bare")
    assert isinstance(module, nn.Module) and not isinstance(module, Processor)


def test_called_and_plain_classes_get_a_forward(custom, folder):
    body = "    def __call__(self, attn, hidden_states):\n        return hidden_states * 2\n"
    write(folder, "mine.py", f"from torch import nn\nclass Called(nn.Module):\n{body}class Plain:\n{body}")
    attention = pytest.importorskip("comfy.ldm.modules.attention", reason="ComfyUI is not in .cache/host")

    for name in ("Called", "Plain"):
        processor = custom.load(f"custom/mine:{name}")
        assert type(written(processor)).__name__ == name
        assert (processor(attention.CrossAttention(4, heads=1, dim_head=4), torch.ones(1, 1, 4)) == 2).all()


def test_an_old_name_that_hands_out_another_class_gives_that_class():
    """As diffusers' deprecated names do in __new__."""

    class New:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return hidden_states

    class Old:
        def __new__(cls):
            return New()

    processor = make("custom/a.py:Old", Old, __file__, "a.py")
    assert isinstance(processor, Processor)
    assert isinstance(written(processor), New)


def test_a_slow_file_is_waited_for_and_then_ended(custom, folder):
    """Here in C code, where nothing can end it: it is said, and nothing that it does later counts."""
    write(folder, "slow.py", "import time; time.sleep(1.5)\nwhile True: pass\n" + MODULE)
    start = time.monotonic()
    finding = refused(custom, "custom/slow:Gain", patience=0.2)
    assert time.monotonic() - start < 1.4
    assert finding.what == "was not loaded within 0.2 s"
    assert "goes on in the background" in finding.why
    write(folder, "slow.py", MODULE)
    assert factor(custom.load("custom/slow:Gain")) == 2
    assert_nothing_runs()
    assert factor(custom.load("custom/slow:Gain")) == 2


ENDLESS = {
    "an import": "while True:\n    pass\n" + MODULE,
    "an import that catches everything": "while True:\n    try:\n        sum(range(99))\n    except BaseException:\n"
    "        pass\n" + MODULE,
    "an __init__": MODULE + "    def __init__(self):\n        while True:\n            pass\n",
}


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_disk_that_hangs_while_a_file_is_read_for_a_run(custom, folder, monkeypatch, cancelled):
    """No such disk is at hand: the read waits."""
    write(folder, "mine.py", MODULE)
    custom.names()
    answers = threading.Event()
    monkeypatch.setattr(custom_module, "read_source", lambda path: answers.wait(20))

    def check() -> None:
        if cancelled:
            raise Cancelled

    start = time.monotonic()
    try:
        with pytest.raises(Cancelled if cancelled else CannotLoad, match=None if cancelled else "was not read within"):
            custom.load("custom/mine:Gain", cancel=Cancel(check, Cancelled), patience=1.0)
        assert time.monotonic() - start < 10
    finally:
        answers.set()


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_never_ends_slows_nothing_afterwards(custom, folder, what, cancelled):
    write(folder, "endless.py", ENDLESS[what])
    start = time.monotonic()

    def check():
        if time.monotonic() > start + 0.2:
            raise Cancelled

    if cancelled:
        with pytest.raises(Cancelled):
            custom.load("custom/endless:Gain", cancel=Cancel(check, Cancelled))
    else:
        assert "within 0.2 s" in refused(custom, "custom/endless:Gain", patience=0.2).what
    assert time.monotonic() - start < 2
    assert_nothing_runs()


HANGS = """
import time
start = time.monotonic()


class Hangs(type):
    def __getattribute__(cls, name):
        while name == "__module__" and time.monotonic() < start + 15:
            time.sleep(0.01)
        return super().__getattribute__(name)

"""


def test_a_metaclass_that_does_not_return_holds_up_nobody(custom, folder):
    """It is asked for the class's file and line, too, when a finding is written."""
    write(folder, "meta.py", HANGS + MODULE.replace("(nn.Module)", "(nn.Module, metaclass=Hangs)"))
    start = time.monotonic()
    finding = refused(custom, "custom/meta:Gain", patience=0.3)
    assert finding.what == "was not made within 0.3 s"
    assert time.monotonic() - start < 8


class Cancelled(Exception):
    """The host's interrupt was an Exception up to ComfyUI 0.18.2."""


@pytest.mark.parametrize("slow", ["import time; time.sleep(3)\n" + MODULE, MODULE + SLEEPING_INIT])
def test_a_slow_one_can_be_cancelled(custom, folder, slow):
    def cancel():
        raise Cancelled

    write(folder, "slow.py", slow)
    start = time.monotonic()
    with pytest.raises(Cancelled):
        custom.load("custom/slow:Gain", cancel=Cancel(cancel, Cancelled))
    assert time.monotonic() - start < 2


def test_a_file_that_is_saved_while_it_is_used_is_quoted_as_it_ran(custom, folder, monkeypatch):
    """Half of the new text is there when the class's line is looked for."""
    file = write(folder, "mine.py", MODULE + "    def __init__(self):\n        raise ValueError('no')\n")
    monkeypatch.setattr(custom, "_find", lambda *_args: (UserFile("mine", file, folder), "Gain"))
    run_file = custom_module._run_file

    def saved_meanwhile(*args):
        module = run_file(*args)
        file.write_text("class Gain(nn.Module:\n  def (")
        os.utime(file, (1, 1))
        return module

    monkeypatch.setattr(custom_module, "_run_file", saved_meanwhile)
    finding = refused(custom, "custom/mine:Gain")
    assert finding.where == "models/attention_processors/mine.py:12"
    assert finding.why == "ValueError: no."


def test_dataclasses_and_relatives_within_a_file_work(custom, folder):
    write(
        folder,
        "mine.py",
        """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
@dataclass(eq=False)
class Gain(nn.Module):
    factor: float = 2.0
    def __post_init__(self):
        super().__init__()
    def forward(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, value=None):
        return hidden_states * self.factor
""",
    )
    assert factor(custom.load("custom/mine:Gain")) == 2
