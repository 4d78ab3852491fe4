"""The processor that a workflow names: used, or given up with a finding and sdpa in its place."""

from __future__ import annotations

import _thread
import io
import sys
import threading
import time
import traceback
from functools import partial
from typing import Any

import pytest
import torch
from torch import overrides

pytestmark = pytest.mark.usefixtures("host")

RIGHT = """
    def {method}(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (attn.head_to_batch_dim(x) for x in (q, k, v))
        {line}
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k, mask) @ v)))
"""


@pytest.fixture(scope="module")
def unet(host):
    """One for all: what a model hands to its attention is found out once, which takes a third of a second."""
    import models

    return models.unet_patcher()


@pytest.fixture
def choose(tmp_path, monkeypatch, unet):
    """Chooses a processor whose file has this text, for the small UNet: its name, (severity, rule) of findings, those
    themselves, the processor, and a site."""
    from onediff_pack.host import offered_processors as processor_choice
    from onediff_pack.processors import find_sites
    from onediff_pack.processors.sources.custom import CustomProcessors

    custom = CustomProcessors(lambda: [tmp_path])
    monkeypatch.setattr(processor_choice, "CUSTOM", custom)
    patcher = unet.clone()
    sites = find_sites(patcher.model.diffusion_model)

    def choose(name: str, text: str = ""):
        (tmp_path / "mine.py").write_text(text)
        findings = []
        used, processor, rejected = processor_choice.choose("OneDiffPatchAttention", name, sites, patcher, findings)
        if used == "sdpa":
            assert type(processor).__name__ == "SDPAProcessor"
        assert rejected is None if used == name else rejected["processor"] == name
        if rejected and findings[0].severity == "error":
            assert rejected["fix"] == findings[0].fix != "", "what to do is told to the check, too"
        return used, [(finding.severity, finding.rule) for finding in findings], findings, processor, sites[0]

    return choose


def written(method: str = "forward", line: str = "pass", base: str = "(nn.Module)") -> str:
    return f"import torch\nfrom torch import nn\n\n\nclass Mine{base}:" + RIGHT.format(method=method, line=line)


def test_a_right_one_is_used_and_nothing_said(choose):
    assert choose("custom/mine:Mine", written())[:2] == ("custom/mine:Mine", [])


@pytest.mark.parametrize("base", ["", "(nn.Module)"])
def test_one_that_overrides_call_is_used_and_noted(choose, base):
    used, found, *_ = choose("custom/mine:Mine", written("__call__", base=base))
    assert (used, found) == ("custom/mine:Mine", [("note", "call-instead-of-forward")])


def test_one_that_no_graph_can_hold_is_used_and_its_line_named(choose):
    used, found, findings, *_ = choose("custom/mine:Mine", written(line="if (q > 0).any(): q = q * 1"))
    assert used == "custom/mine:Mine"
    assert ("warning", "depends-on-values") in found
    assert findings[0].where.endswith("mine.py:11")


def test_one_without_forward_gives_way_to_sdpa(choose):
    used, found, findings, *_ = choose("custom/mine:Mine", written("foward"))
    assert (used, found) == ("sdpa", [("error", "no-forward"), ("warning", "processor-not-used")])
    assert findings[0].where.endswith("mine.py:5")


def test_one_that_raises_when_it_runs_gives_way_to_sdpa(choose):
    used, found, *_ = choose("custom/mine:Mine", written(line="q = q.reshape(1, 2, 3)"))
    assert used == "sdpa"
    assert found[0][0] == "error"
    assert found[-1] == ("warning", "processor-not-used")


def test_a_broken_file_gives_way_to_sdpa(choose):
    used, found, findings, *_ = choose("custom/mine:Mine", "class Mine(nn.Module):\n    pass\n")
    assert (used, found) == ("sdpa", [("error", "processor-file")])
    assert findings[0].where.endswith("/mine.py:1")
    assert findings[0].why.startswith("It uses nn, which its file neither imports nor defines")
    assert findings[0].why.endswith("NameError: name 'nn' is not defined.")


@pytest.mark.parametrize("name", ["custom/none:None", "diffusers/None", "diffusers/SlicedAttnProcessor", "sage-9"])
def test_what_is_not_there_gives_way_to_sdpa(choose, name):
    used, found, findings, *_ = choose(name)
    assert used == "sdpa"
    assert len(found) == 1
    assert name in findings[0].what
    assert "sdpa" in findings[0].what + findings[0].fix


RAISING = {
    "an exit": "raise SystemExit(2)",
    "a keyboard's interrupt": "raise KeyboardInterrupt",
    "a generator's end": "raise GeneratorExit",
    "an exit with real numbers only": "if q.device.type != 'meta' and type(q) is torch.Tensor: raise SystemExit(2)",
    "a message that cannot be read": "raise Odd",
}


@pytest.mark.parametrize("what", RAISING)
def test_whatever_forward_raises_gives_way_to_sdpa_and_its_line_is_named(choose, what):
    odd = "\n\nclass Odd(Exception):\n    def __str__(self):\n        raise SystemExit\n"
    used, found, findings, *_ = choose("custom/mine:Mine", written(line=RAISING[what]) + odd)
    assert (used, found[0][0], found[-1]) == ("sdpa", "error", ("warning", "processor-not-used"))
    assert found[0][1] in ("raises", "raises-on-numbers")
    assert findings[0].where.endswith("mine.py:11")


def test_an_exit_in_calls_that_this_model_does_not_make_replaces_nothing(choose):
    """A UNet brings no mask; a call with one, from another node, goes to sdpa."""
    exits = written(line="if attention_mask is not None: raise SystemExit(2)")
    used, found, findings, *_ = choose("custom/mine:Mine", exits)
    assert (used, found) == ("custom/mine:Mine", [("warning", "raises")])
    assert findings[0].where.endswith("mine.py:11")
    assert findings[0].served


LOOKED_AT = {
    "a level of another type": "level = ['kernel']",
    "a level that raises": "level = property(lambda self: exit(2))",
    "a __class__ that raises": "__class__ = property(lambda self: exit(2))",
    "a __getattr__ that exits": "def __getattr__(self, name): exit(2)",
    "weights that raise": "def named_parameters(self, *args, **kwargs): exit(2)",
    "modules that raise": "def named_modules(self, *args, **kwargs): exit(2)",
    "a hash that raises": "def __hash__(self): exit(2)",
    "parameters that never match": "differs_in_training = property(lambda self: exit(2))",
}


@pytest.mark.parametrize("what", LOOKED_AT)
def test_a_class_that_raises_when_it_is_looked_at_ends_nothing(choose, what):
    """It is used, or sdpa is and a finding says so."""
    text = written().replace("Module):", f"Module):\n    {LOOKED_AT[what]}\n")
    used, found, findings, *_ = choose("custom/mine:Mine", text)
    assert used == "custom/mine:Mine" or ("error" in dict(found) and used == "sdpa"), found
    assert all(finding.why.endswith(".") and finding.fix.endswith(".") for finding in findings)


def test_an_exit_while_dynamo_captures_is_a_finding(choose):
    used, found, *_ = choose("custom/mine:Mine", written(line="if torch.compiler.is_compiling(): exit(2)"))
    assert used == "custom/mine:Mine", "it computes right uncompiled"
    assert "warning" in dict(found)


def test_a_slow_one_is_used_and_its_block_runs_uncompiled(choose):
    import models
    from onediff_pack.compilers.session.prepared_model import PreparedModel
    from onediff_pack.processors import find_sites
    from onediff_pack.processors.attention_patch import AttentionPatch

    used, found, _, processor, _ = choose("custom/mine:Mine", written(line="__import__('time').sleep(0.55)"))
    assert (used, found) == ("custom/mine:Mine", [("warning", "too-slow-to-check")])
    model = models.unet_patcher().model.diffusion_model
    sites = find_sites(model)[:1]
    patch = AttentionPatch(sites, processor, lambda options: None)
    prepared = PreparedModel(model, [patch], (), None, "blocks", torch.float32, torch.device("cpu"))
    (path,) = prepared.unfit
    assert sites[0].path.startswith(path)


def test_cancel_reaches_a_slow_forward_within_a_moment(choose):
    from comfy import model_management

    pressed = []

    def press():
        pressed.append(time.monotonic())
        model_management.interrupt_current_processing(True)

    timer = threading.Timer(0.5, press)
    timer.start()
    with pytest.raises(model_management.InterruptProcessingException):
        choose("custom/mine:Mine", written(line="__import__('time').sleep(4)"))
    assert time.monotonic() - pressed[0] < 2
    assert not model_management.processing_interrupted()


def test_cancel_is_heard_while_a_kernel_is_proven(choose, monkeypatch):
    """Its child process may take a minute; another node's thread may be at it already, too."""
    from comfy import model_management
    from onediff_pack.processors import get_processor
    from onediff_pack.processors.contract import Limits
    from onediff_pack.processors.kernels import proofs
    from onediff_pack.proving.proof import Proof

    kernel, ends = type(get_processor("sage")), threading.Event()
    monkeypatch.setattr(kernel, "limits", Limits())
    monkeypatch.setattr(kernel, "absent", classmethod(lambda cls: None))

    def prove(trial) -> Proof:
        ends.wait(10)
        return Proof(False, "it was ended.", passing=True)

    monkeypatch.setattr(proofs, "prove_in_child", prove)
    ahead = proofs.KERNEL_PROOFS.prove_ahead(["sage"], torch.device("cpu"))
    pressed = []

    def press():
        pressed.append(time.monotonic())
        model_management.interrupt_current_processing(True)

    threading.Timer(0.5, press).start()
    try:
        with pytest.raises(model_management.InterruptProcessingException):
            choose("sage")
        assert time.monotonic() - pressed[0] < 2
    finally:
        ends.set()
        ahead.join()


def test_an_interrupt_in_forward_is_the_users_cancel_and_no_finding(choose):
    from comfy import model_management

    line = "import comfy.model_management as m; raise m.InterruptProcessingException"
    with pytest.raises(model_management.InterruptProcessingException):
        choose("custom/mine:Mine", written(line=line))


@pytest.mark.parametrize("raised", ["SystemExit('gone')", "KeyboardInterrupt", "GeneratorExit", "Odd"])
def test_what_would_end_the_hosts_thread_in_a_sampling_is_an_ordinary_error(choose, tmp_path, raised):
    """Raised when a file is there, so that the check sees nothing of it."""
    from comfy import model_management

    odd = "\n\nclass Odd(Exception):\n    def __str__(self):\n        raise SystemExit\n"
    line = f"if __import__('os').path.exists({str(tmp_path / 'now')!r}): raise {raised}"
    name, _, _, processor, site = choose("custom/mine:Mine", written(line=line) + odd)
    (tmp_path / "now").touch()
    with pytest.raises(Exception) as caught:  # GeneratorExit and its like are none
        sampled(name, processor, site, lambda: site.module(torch.ones(1, 64, site.module.to_q.in_features)))
    text = str(caught.value)
    assert text.startswith(f"Patch Attention Processors (node 7): custom/mine:Mine raised {raised.partition('(')[0]}")
    assert "mine.py:11)" in text and "sdpa" in text

    def own(error):
        raise error

    for error in (ValueError("another's"), model_management.InterruptProcessingException()):
        with pytest.raises(type(error)) as passed:
            sampled(name, processor, site, lambda error=error: own(error))
        assert passed.value is error


ODD = """

class Odd(Exception):
    def __str__(self):
        return 7
"""

UNCLEAR = {
    "StopIteration": "StopIteration",
    "StopAsyncIteration('no')": "StopAsyncIteration: no",
    "KeyError('x')": "KeyError: 'x'",
    "ValueError": "ValueError",
    "ValueError('\\ud800')": "ValueError: \\ud800",
    "ValueError(' \\n')": "ValueError",
    "AssertionError": "AssertionError",
    "Odd": "Odd: its message cannot be read",
    "ExceptionGroup('', [ValueError('a'), KeyError(1)])": "ExceptionGroup: (2 sub-exceptions), first ValueError: a",
    "SyntaxError": "SyntaxError: None",
    "ModuleNotFoundError('no such')": "ModuleNotFoundError: no such",
}
WHERE_NOW = "if __import__('os').path.exists({}): {}"


@pytest.mark.parametrize("raised", UNCLEAR)
def test_an_error_in_a_sampling_names_node_processor_class_file_and_line(choose, tmp_path, raised):
    line = WHERE_NOW.format(repr(str(tmp_path / "now")), f"raise {raised}")
    said = _said_in_a_sampling(choose, tmp_path, line)
    assert f"custom/mine:Mine raised {UNCLEAR[raised]} (" in said and "mine.py:11)" in said


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("self.forward(attn, hidden_states)", "RecursionError: maximum recursion depth exceeded"),
        ("exec('a b')", "SyntaxError: invalid syntax"),
        ("exec('if a:\\nb')", "IndentationError: expected an indented block"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("next(iter(()))", "StopIteration"),
        ("q.view(7, 7, 7)", "RuntimeError: shape '[7, 7, 7]' is invalid"),
    ],
)
def test_what_python_raises_in_a_sampling_names_them_too(choose, tmp_path, does, words):
    said = _said_in_a_sampling(choose, tmp_path, WHERE_NOW.format(repr(str(tmp_path / "now")), does))
    assert f"custom/mine:Mine raised {words}" in said
    assert "mine.py:11)" in said or (words.startswith("Recursion") and "mine.py:" in said)


def _said_in_a_sampling(choose, tmp_path, line):
    name, found, _, processor, site = choose("custom/mine:Mine", written(line=line) + ODD)
    assert name == "custom/mine:Mine", found
    (tmp_path / "now").touch()
    with pytest.raises(RuntimeError) as caught:
        sampled(name, processor, site, lambda: site.module(torch.ones(1, 64, site.module.to_q.in_features)))
    assert str(caught.value).startswith("Patch Attention Processors (node 7): ")
    return str(caught.value)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), MemoryError()])
def test_what_comfyui_frees_memory_for_reaches_it_as_it_is(choose, error):
    import builtins

    vars(builtins)["given"] = error
    try:
        name, _, _, processor, site = choose("custom/mine:Mine", written(line="if q.shape[1] == 67: raise given"))
        with pytest.raises(type(error)) as caught:
            sampled(name, processor, site, lambda: site.module(torch.ones(1, 67, site.module.to_q.in_features)))
    finally:
        del vars(builtins)["given"]
    assert caught.value is error


@pytest.mark.parametrize("base", ["torch.OutOfMemoryError", "MemoryError", "Interrupt"])
def test_a_class_derived_from_comfyuis_own_reaches_it_as_its_own(choose, tmp_path, base):
    """ComfyUI shows what it frees memory for, in the thread that would end."""
    import comfy.model_management

    interrupt = comfy.model_management.InterruptProcessingException
    text = written(line=WHERE_NOW.format(repr(str(tmp_path / "now")), "raise Mean('no memory')"))
    text += f"""

from comfy.model_management import InterruptProcessingException as Interrupt
class Mean({base}):
    __str__ = __repr__ = exit
"""
    _, found, _, processor, site = choose("custom/mine:Mine", text)
    (tmp_path / "now").touch()
    with pytest.raises((torch.OutOfMemoryError, MemoryError, interrupt)) as caught:
        step = partial(site.module, torch.ones(1, 64, site.module.to_q.in_features))
        sampled("custom/mine:Mine", processor, site, step)
    assert type(caught.value) in (torch.OutOfMemoryError, MemoryError, interrupt), found
    assert str(caught.value).endswith("custom/mine:Mine raised Mean: its message cannot be read")


#: Settings of PyTorch that hold for all of ComfyUI, as people copy them from guides.
SETS = (
    "torch.set_default_dtype(torch.float64)",
    "torch.set_default_device('meta')",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.enable_math_sdp(False)",
    "torch.use_deterministic_algorithms(True)",
)


def pytorchs_settings() -> list[Any]:
    made, precision = torch.ones(1), torch.get_float32_matmul_precision()
    math, exact = torch.backends.cuda.math_sdp_enabled(), torch.are_deterministic_algorithms_enabled()
    return [made.dtype, made.device.type, precision, math, exact, len(overrides._get_current_function_mode_stack())]


@pytest.fixture
def settings_as_they_are():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.enable_math_sdp(True)
    torch.use_deterministic_algorithms(False)
    for _ in overrides._get_current_function_mode_stack():
        overrides._pop_mode()


@pytest.mark.parametrize("sets", SETS)
@pytest.mark.usefixtures("settings_as_they_are")
def test_pytorchs_settings_are_put_back_after_each_model_call(choose, tmp_path, sets):
    before = pytorchs_settings()
    line = WHERE_NOW.format(repr(str(tmp_path / "now")), sets)
    name, found, _, processor, site = choose("custom/mine:Mine", written(line=line))
    assert name == "custom/mine:Mine", found
    (tmp_path / "now").touch()
    sampled(name, processor, site, partial(site.module, torch.ones(1, 64, site.module.to_q.in_features)))
    assert pytorchs_settings() == before


@pytest.mark.parametrize("sets", [*SETS, "torch.set_default_device('cpu')"])
@pytest.mark.usefixtures("settings_as_they_are")
def test_pytorchs_settings_are_put_back_after_a_check(choose, sets):
    """The default device was one of the check's own after it: every later prompt ended with “no data”."""
    before = pytorchs_settings()
    choose("custom/mine:Mine", written(line=sets))
    assert pytorchs_settings() == before


@pytest.mark.parametrize("where", ["__init__", "forward", "file"])
@pytest.mark.parametrize("silenced", ["None", "io.StringIO(); sys.stderr.close()", "sys.stderr; sys.stderr.close()"])
def test_a_class_that_silences_its_output_leaves_later_prompts_something_to_write_to(
    choose, where, silenced, monkeypatch
):
    """ComfyUI's progress bar ended every later sampling: “'NoneType' object has no attribute 'write'”."""
    streams = [io.StringIO(), io.StringIO()]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    line = f"import io, sys; sys.stdout = None; sys.stderr = {silenced}"
    text = written(line=line if where == "forward" else "pass")
    if where == "__init__":
        init = f"    def __init__(self):\n        super().__init__()\n        {line}\n\n    def forward"
        text = text.replace("    def forward", init)
    elif where == "file":
        text += f"\n\n{line}\n"
    choose("custom/mine:Mine", text)
    sys.stderr.write("to write to")
    sys.stderr.flush()
    assert sys.stdout is streams[0]
    assert sys.stderr is streams[1] or streams[1].closed


def test_a_module_that_raises_when_it_is_asked_keeps_nobody_elses_class_from_being_checked(choose, tmp_path):
    """Its own is used too: only the module is odd."""
    odd = (
        "\n\nclass Odd(type(torch)):\n    def __getattribute__(self, name):\n        raise SystemExit(name)\n"
        "\n\n__import__('sys').modules[__name__].__class__ = Odd\n"
    )
    assert choose("custom/mine:Mine", written() + odd)[0] == "custom/mine:Mine"
    (tmp_path / "other.py").write_text(written())
    used, found, *_ = choose("custom/other:Mine", written() + odd)
    assert (used, found) == ("custom/other:Mine", [])


@pytest.mark.parametrize("where", ["__init__", "forward", "file"])
@pytest.mark.parametrize("raised", ["StopIteration", "KeyError('x')", "Odd", "ModuleNotFoundError('no such')"])
def test_a_finding_on_such_an_error_names_class_file_and_line(choose, where, raised):
    text = written(line=f"raise {raised}" if where == "forward" else "pass") + ODD
    if where == "__init__":
        text = text.replace("    def forward", f"    def __init__(self):\n        raise {raised}\n\n    def forward")
    elif where == "file":
        text += f"\n\nraise {raised}\n"
    used, _, findings, *_ = choose("custom/mine:Mine", text)
    assert used == "sdpa"
    said = " ".join(f"{one.where} {one.what} {one.why}" for one in findings)
    assert UNCLEAR[raised] in said
    assert "None in ComfyUI" not in " ".join(one.fix for one in findings)
    number = 1 + [f"raise {raised}" in line for line in text.splitlines()].index(True)
    assert f"mine.py:{number}" in said


SHOWN = {
    "formatted": "def __format__(self, spec):\n        raise SystemExit",
    "read a second time": "read = 0\n    def __str__(self):\n        self.read += 1\n        if self.read > 1:\n"
    "            raise SystemExit\n        return 'once'",
    "asked for notes": "__notes__ = property(exit)",
}


@pytest.mark.parametrize("odd", SHOWN.values(), ids=SHOWN)
def test_an_error_that_exits_when_it_is_shown_is_an_ordinary_one(choose, tmp_path, odd):
    """ComfyUI formats what a node raised, and what that came of, several times, in the thread of its queue."""
    line = f"if __import__('os').path.exists({str(tmp_path / 'now')!r}): raise Odd('no')"
    text = f"{written(line=line)}\n\nclass Odd(Exception):\n    {odd}\n"
    name, _, _, processor, site = choose("custom/mine:Mine", text)
    (tmp_path / "now").touch()
    with pytest.raises(RuntimeError) as caught:
        sampled(name, processor, site, lambda: site.module(torch.ones(1, 64, site.module.to_q.in_features)))
    shown = f"{caught.value}" + "".join(traceback.format_exception(caught.value))
    assert "custom/mine:Mine raised Odd" in shown and "mine.py:11" in shown


ENDLESS = """

class Endless(Exception):
    def __str__(self):
        while True:
            __import__("time").sleep(0.1)
"""


@pytest.mark.parametrize("where", ["__init__", "forward", "a sampling"])
def test_an_error_whose_text_never_ends_is_named_by_its_class(choose, tmp_path, where):
    line = "pass" if where == "__init__" else "raise Endless"
    text = written(line=line if where == "forward" else WHERE_NOW.format(repr(str(tmp_path / "now")), line)) + ENDLESS
    if where == "__init__":
        text = text.replace("    def forward", "    def __init__(self):\n        raise Endless\n\n    def forward")
    start = time.monotonic()
    name, _, findings, processor, site = choose("custom/mine:Mine", text)
    said = " ".join(f"{one.where} {one.what} {one.why}" for one in findings)
    if where == "a sampling":
        (tmp_path / "now").touch()
        with pytest.raises(RuntimeError) as caught:
            sampled(name, processor, site, lambda: site.module(torch.ones(1, 64, site.module.to_q.in_features)))
        said = str(caught.value)
    else:
        assert name == "sdpa"
    assert "Endless: its message cannot be read" in said and "mine.py:" in said
    assert time.monotonic() - start < 30


LISTS = {
    "never": "while threading.current_thread() is threading.main_thread():\n            time.sleep(0.1)",
    "exits": "raise SystemExit",
}


@pytest.mark.parametrize("name", ["named_parameters", "named_modules"])
@pytest.mark.parametrize("does", LISTS.values(), ids=LISTS)
def test_weights_that_a_class_lists_in_a_way_of_its_own_end_nothing(choose, name, does):
    own = f"\n    def {name}(self, *args, **kwargs):\n        {does}\n"
    text = "import threading, time\n" + written() + own
    timer = threading.Timer(20, _thread.interrupt_main)  # else a failure would never end
    timer.start()
    start = time.monotonic()
    try:
        used, found, *_ = choose("custom/mine:Mine", text)
    finally:
        timer.cancel()
    assert time.monotonic() - start < 15
    assert used == "custom/mine:Mine" or found


KEPT = {
    "an object": "class Kept:\n    @property\n    def __class__(self):\n        raise SystemExit",
    "a number": "class Kept(int):\n    __hash__ = int.__hash__\n    def __eq__(self, other):\n        raise SystemExit",
    "a dict": "class Kept(dict):\n    def copy(self):\n        raise SystemExit\n    items = __len__ = copy",
    "a tensor": "class Kept(torch.Tensor):\n    def __torch_function__(self, *args):\n        raise SystemExit",
}


@pytest.mark.parametrize("cls", KEPT.values(), ids=KEPT)
def test_whatever_a_processor_keeps_between_calls_ends_nothing(choose, tmp_path, cls):
    from onediff_pack.processors.attention_patch import AttentionPatch

    line = WHERE_NOW.format(repr(str(tmp_path / "now")), "self.__dict__.setdefault('odd', Kept())")
    name, found, _, processor, site = choose("custom/mine:Mine", f"{written(line=line)}\n\n{cls}\n")
    assert name == "custom/mine:Mine", found
    patch = AttentionPatch([site], processor, lambda options: None, name=name)
    given = torch.ones(1, 64, site.module.to_q.in_features)

    def steps():
        return [patch(lambda *args, **kwargs: site.module(given), None, None) for _ in range(3)]

    patch.sampling(steps)
    (tmp_path / "now").touch()
    first, second, _ = steps()
    patch.sampling(steps)
    assert torch.equal(first, second)


STOPS = "raise next(m for n, m in __import__('sys').modules.items() if n.endswith('patching.ending.stopping')).Stopped"


@pytest.mark.parametrize("where", ["__init__", "forward", "while Dynamo captures", "a sampling"])
def test_an_end_that_nobody_asked_for_ends_nothing(choose, tmp_path, where):
    """The class with which OneDiff ends a thread, raised by the processor."""
    if where == "while Dynamo captures":
        line = f"if torch.compiler.is_compiling() or not type(q) is torch.Tensor: {STOPS}"
    else:
        line = STOPS if where == "forward" else WHERE_NOW.format(repr(str(tmp_path / "now")), STOPS)
    text = written(line="pass" if where == "__init__" else line)
    if where == "__init__":
        text = text.replace("    def forward", f"    def __init__(self):\n        {STOPS}\n\n    def forward")
    name, _, findings, processor, site = choose("custom/mine:Mine", text)
    if where == "a sampling":
        (tmp_path / "now").touch()
        with pytest.raises(RuntimeError, match="Stopped"):
            sampled(name, processor, site, lambda: site.module(torch.ones(1, 64, site.module.to_q.in_features)))
    else:
        assert "Stopped" in " ".join(f"{one.what} {one.why}" for one in findings), findings


def test_only_what_runs_nobodys_code_when_it_is_shown_counts_as_harmless():
    from onediff_pack.patching.user_errors import is_harmless

    class Named(type):
        __module__ = property(exit)

    class Odd(Exception, metaclass=Named):
        pass

    class Text:
        __str__ = exit

    noted: Any = ValueError("noted")
    chained = ValueError("chained")
    noted.__notes__, chained.__cause__ = [Text()], Odd("its cause")
    for error in (Odd("no"), ValueError(Text()), noted, chained, type("ValueError", (ValueError,), {})("not Python's")):
        assert not is_harmless(error), type(error)
    for error in (ValueError("a", 1), OSError(2, "no file", "x"), torch.OutOfMemoryError("out of memory")):
        assert is_harmless(error), type(error)


def sampled(name, processor, site, step):
    """One model call under the node's patch."""
    from onediff_pack.host.offered_processors import processor_error
    from onediff_pack.processors.attention_patch import AttentionPatch

    failed = partial(processor_error, "Patch Attention Processors (node 7)", name, processor)
    patch = AttentionPatch([site], processor, lambda options: None, name=name, failed=failed)
    return patch(lambda *args, **kwargs: step(), None, None)


@pytest.mark.parametrize("name", ["custom/mine:Mine", "sdpa"])
@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exit_that_comes_from_no_line_of_its_file_is_an_ordinary_error(choose, name, raised):
    """As code that was made by exec."""
    _, _, _, processor, site = choose("custom/mine:Mine", written())

    def step():
        raise raised("gone")

    with pytest.raises(RuntimeError, match=rf"\(node 7\): {raised.__name__}: gone") as error:
        sampled(name, processor, site, step)
    assert error.value.__context__ is None


def test_code_of_a_tensors_class_does_not_go_on_into_the_sampler(choose):
    _, _, _, processor, site = choose("custom/mine:Mine", written())

    class Odd(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *args, **kwargs):
            raise SystemExit("from the sampler")

    made = torch.ones(2).as_subclass(Odd)
    result = sampled("custom/mine:Mine", processor, site, lambda: made)
    assert type(result) is torch.Tensor
    assert result.sum() == 2


def test_diffusers_classes_that_exit_give_way_too(choose, monkeypatch):
    pytest.importorskip("diffusers")
    from diffusers.models.attention_processor import AttnProcessor2_0
    from onediff_pack.processors.sources import diffusers_classes as from_diffusers

    monkeypatch.setattr(from_diffusers, "_made", {}, raising=False)
    monkeypatch.setattr(AttnProcessor2_0, "__init__", lambda self: exit(2))
    used, found, *_ = choose("diffusers/AttnProcessor2_0")
    assert (used, found) == ("sdpa", [("error", "processor-file")])


def test_diffusers_own_is_used(choose):
    pytest.importorskip("diffusers")
    assert choose("diffusers/AttnProcessor2_0")[:2] == (
        "diffusers/AttnProcessor2_0",
        [("note", "call-instead-of-forward")],
    )


def test_the_list_has_the_default_first_then_the_users_own(choose, tmp_path):
    from onediff_pack.host import offered_processors as processor_choice

    choose("sdpa", written())
    names = processor_choice.choices()
    hosts = ["host/pytorch", "host/sub_quad", "host/split"]
    mine = names.index("custom/mine:Mine")
    assert (names[:2], names[mine - 3 : mine]) == (["auto", "sdpa"], hosts)
    before = processor_choice.fingerprint("custom/mine:Mine")
    (tmp_path / "mine.py").write_text(written(line="q = q * 1"))
    assert processor_choice.fingerprint("custom/mine:Mine") != before
    assert processor_choice.fingerprint("sdpa") == processor_choice.fingerprint(None) == ""
