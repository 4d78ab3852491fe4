"""``auto``: what it picks, what it never picks, and what it leaves alone. On ComfyUI's own small models, with an
attention in the place of ComfyUI's that takes longer than others."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from onediff_pack.patching.foreign import OVERRIDE
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor, register_processor, registry
from onediff_pack.processors.built_in.reference import plain_attention
from onediff_pack.processors.choosing import trial
from onediff_pack.processors.choosing.auto_patch import AutoPatch
from onediff_pack.processors.choosing.candidates import candidates
from onediff_pack.processors.choosing.host_call import HostCall
from onediff_pack.processors.choosing.kept import Choices
from onediff_pack.processors.choosing.measured_patch import MeasuredPatch
from onediff_pack.processors.kernels.kernel import Kernel

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models = importlib.import_module("models")
pytestmark = pytest.mark.usefixtures("host")

CPU, FLOAT = torch.device("cpu"), torch.float32

#: Seconds that a call of the slow attention takes longer, and those of a 20-step sampling.
LATE, STEPS = 0.02, torch.ones(21)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """ComfyUI's attention takes longer, and notes its calls."""
    import comfy.ldm.flux.math
    import comfy.ldm.modules.attention as attention

    calls: list[Any] = []

    def attention_slow(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(tuple(q.shape))
        time.sleep(LATE)
        return attention.attention_pytorch(q, *args, **kwargs)

    slow = attention.wrap_attn(attention_slow)
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, slow)
    monkeypatch.setattr(comfy.ldm.flux.math, "optimized_attention", slow)
    yield calls


@pytest.fixture
def kernel() -> Iterator[Callable[..., None]]:
    """Registers a kernel that is expected to be the fastest, and computes what ``change`` makes of attention."""
    names: list[str] = []

    def add(name: str, change: Callable[[torch.Tensor], torch.Tensor], approximate: bool = False) -> None:
        def attend(self, q, k, v, mask, scale):
            return change(plain_attention(q, k, v, mask))

        fields = {"rank": -1, "attend": attend, "approximate": approximate}
        register_processor(name)(type(name, (Kernel,), fields))
        names.append(name)

    yield add
    for name in names:
        registry._CLASSES.pop(name, None)
        registry._INSTANCES.pop(name, None)


class Auto:
    """A model with ``auto`` on it, and what its node would be told."""

    def __init__(self, patcher: Any, quality: Any = "exact", choices: Choices | None = None, is_sdpa: bool = False):
        self.told: dict[str, Any] = {}
        model = patcher.model.diffusion_model
        self.patch = AutoPatch(
            find_sites(model),
            lambda options: None,
            model=model,
            quality=quality,
            candidates=lambda: candidates(CPU, FLOAT, quality, hosts_is_sdpa=is_sdpa),
            told=self.told.update,
            choices=choices or Choices(),
        )
        self.model = patcher.clone()
        attach(self.model, self.patch)

    def step(self, **options: Any) -> torch.Tensor:
        return models.step(self.model, sample_sigmas=STEPS, **options)

    @property
    def chosen(self) -> set[str]:
        return {site["processor"] for site in self.told["sites"]}

    def reasons(self, name: str) -> set[str]:
        rows = [one for row in self.told["choices"] for one in row["candidates"] if one["processor"] == name]
        return {row["reason"] for row in rows}


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_the_first_step_decides_and_computes_as_before(hosts: list[Any], model: str) -> None:
    patcher = getattr(models, f"{model}_patcher")()
    plain = models.step(patcher)
    each = len(hosts)
    auto = Auto(patcher)
    assert torch.equal(auto.step(), plain), "the first step is as it was"
    assert auto.chosen == {"sdpa"}
    assert len(auto.told["sites"]) == len(find_sites(patcher.model.diffusion_model))
    hosts.clear()
    torch.testing.assert_close(auto.step(), plain, rtol=1e-4, atol=1e-5)
    assert hosts == [], "from now on sdpa computes"

    said, gain = auto.told["auto"], auto.told["gain"]
    assert (said["state"], said["source"], said["processors"]) == ("chosen", "measured", ["sdpa"])
    assert said["attention_speedup"] > 2 and said["error"] < 1e-5
    assert gain["computed"] and gain["before_ms"] - gain["after_ms"] == pytest.approx(each * LATE * 1e3, rel=0.5)
    row = auto.told["choices"][0]
    host, sdpa = (one for one in row["candidates"] if one["processor"] in ("host", "sdpa"))
    assert (host["reason"], sdpa["reason"]) == ("slower", None) and host["ms"] > sdpa["ms"] + LATE * 500
    assert any(one["processor"] == "sage" and one["reason"] for one in row["candidates"]), "why not the others"


BAD: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "nan": (lambda x: x * float("nan"), "it gives NaN or Inf"),
    "infinite": (lambda x: x / 0, "it gives NaN or Inf"),
    "wrong by one percent": (lambda x: x * 1.01, "it is wrong (1.0e-02 from float32)"),
    "another shape": (lambda x: x[:, :, :1], "it raises "),
    "raises": (lambda x: [][1], "it raises IndexError: list index out of range"),
    "out of memory": (lambda x: (_ for _ in ()).throw(torch.OutOfMemoryError("full")), "it raises OutOfMemoryError"),
    "slower": (lambda x: time.sleep(2 * LATE) or x, "no faster"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_kernel_is_never_picked(bad: str, hosts: list[Any], kernel: Callable[..., None]) -> None:
    change, reason = BAD[bad]
    kernel("bad", change)
    auto = Auto(models.unet_patcher())
    auto.step()
    assert auto.chosen == {"sdpa"}
    assert any(said.startswith(reason) for said in auto.reasons("bad")), auto.reasons("bad")
    assert torch.isfinite(auto.step()).all()


def test_where_nothing_is_faster_everything_stays(hosts: list[Any]) -> None:
    """As with ``--use-pytorch-cross-attention``: ComfyUI computes with sdpa already."""
    patcher = models.unet_patcher()
    plain = models.step(patcher)
    auto = Auto(patcher, is_sdpa=True)
    hosts.clear()
    assert torch.equal(auto.step(), plain)
    first = len(hosts)
    assert (auto.told["sites"], auto.told["auto"]["state"]) == ([], "no gain")
    assert auto.told["gain"]["speedup"] == 1
    assert auto.reasons("sdpa") == {"ComfyUI computes with it already"}
    assert torch.equal(auto.step(), plain) and len(hosts) == 2 * first
    assert not [path for path, module in patcher.model.named_modules() if "forward" in module.__dict__]


def test_approximate_kernels_need_quality_fast_and_say_how_far_they_are_off(
    hosts: list[Any], kernel: Callable[..., None]
) -> None:
    kernel("rough", lambda x: x * 1.03, approximate=True)
    exact = Auto(models.unet_patcher())
    exact.step()
    assert "rough" not in exact.chosen
    assert exact.reasons("rough") == {"it is approximate: set quality to fast for it"}
    fast = Auto(models.unet_patcher(), "fast", is_sdpa=True)
    fast.step()
    assert fast.chosen == {"rough"}
    assert fast.told["auto"]["error"] == pytest.approx(0.03, rel=0.01)


def test_calls_that_ask_for_full_precision_get_no_approximate_kernel(
    hosts: list[Any], kernel: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.ldm.modules.attention as attention

    calls = []
    kernel("rough", lambda x: calls.append(1) or x, approximate=True)
    inner = attention.optimized_attention
    in_full = lambda *args, **kwargs: inner(*args, low_precision_attention=False, **kwargs)  # noqa: E731
    monkeypatch.setattr(attention, "optimized_attention", in_full)
    auto = Auto(models.unet_patcher(), "fast")
    auto.step()
    auto.step()
    assert (auto.chosen, calls) == ({"sdpa"}, [])
    named = models.unet_patcher().clone()
    attach(named, MeasuredPatch(find_sites(named.model.diffusion_model), get_processor("rough"), lambda options: None))
    models.step(named)
    assert calls == []


@pytest.mark.parametrize("how", ["the override is gone", "cleared"])
def test_a_decision_that_does_not_hold_any_more_is_made_anew(hosts: list[Any], how: str) -> None:
    """Patch Attention Processors does not run again for it: ComfyUI keeps what it gave."""

    def override(function: Callable, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(q, *args, **kwargs)

    choices = Choices()
    auto = Auto(models.unet_patcher(), choices=choices)
    auto.patch.sampling(lambda: auto.step(**({OVERRIDE: override} if how != "cleared" else {})))
    if how == "cleared":
        choices.forget()
        hosts.clear()
    else:
        assert auto.told["auto"]["state"] == "left"
    auto.patch.sampling(lambda: auto.step())
    assert hosts and auto.told["auto"]["state"] == "chosen"
    assert auto.told["auto"]["source"] == "measured"
    hosts.clear()
    auto.patch.sampling(lambda: auto.step())
    assert hosts == [], "and holds"


def test_a_kernel_that_was_proven_since_is_tried(hosts: list[Any], kernel: Callable, tmp_path: Any) -> None:
    choices = Choices(tmp_path)
    Auto(models.unet_patcher(), choices=choices).step()
    kernel("proven_later", lambda x: x)
    later = Auto(models.unet_patcher(), choices=choices)
    later.step()
    assert later.reasons("proven_later") != set()


def test_a_later_override_of_another_node_is_left_alone(hosts: list[Any]) -> None:
    def override(function: Callable, q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return function(q, *args, **kwargs) * 0.5

    patcher = models.unet_patcher()
    theirs = models.step(patcher, **{OVERRIDE: override})
    auto = Auto(patcher)
    for _ in range(2):
        assert torch.equal(auto.step(**{OVERRIDE: override}), theirs)
    assert (auto.told["sites"], auto.told["auto"]["state"]) == ([], "left")


def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are tried from now on."""
    names: list[str] = []
    before = trial.Trial._tried

    def noting(self: Any, name: str, *args: Any) -> Any:
        names.append(name)
        return before(self, name, *args)

    monkeypatch.setattr(trial.Trial, "_tried", noting)
    return names


def test_a_choice_is_made_once_a_model_and_once_a_machine(
    hosts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tried(monkeypatch)
    patcher, choices = models.unet_patcher(), Choices(tmp_path)
    first = Auto(patcher, choices=choices)
    first.step()
    assert names
    names.clear()
    again = Auto(patcher, choices=choices)
    assert not again.patch.deciding, "the node runs again with the same model"
    hosts.clear()
    again.step()
    assert (names, hosts) == ([], [])

    later = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    later.step()
    assert (names, hosts) == ([], []), "another start reads it from disk, and its first step has it"
    assert (later.chosen, later.told["auto"]["source"]) == ({"sdpa"}, "disk")
    assert later.told["auto"]["attention_speedup"] == pytest.approx(first.told["auto"]["attention_speedup"], rel=0.2)
    choices.forget()
    forgotten = Auto(patcher, choices=choices)
    assert forgotten.patch.deciding
    (tmp_path / "attention.json").write_text('{"a": [1], "b": {"kernel": "os.system"}}')
    forgotten.step()
    assert forgotten.told["auto"]["source"] == "measured"


@pytest.mark.parametrize("said", [torch.OutOfMemoryError("full"), RuntimeError("can't allocate memory: 9 bytes")])
def test_a_kernel_that_had_no_memory_is_tried_again_at_the_next_start(
    said: Exception, hosts: list[Any], kernel: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = True

    def attention(x: torch.Tensor) -> torch.Tensor:
        if fails:
            raise said
        return x

    kernel("large", attention)
    kernel("broken", lambda x: [][1])
    Auto(models.unet_patcher(), choices=Choices(tmp_path)).step()
    names = tried(monkeypatch)
    fails = False
    later = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    later.step()
    assert set(names) == {"large"}, "what is known of others holds"
    assert later.told["auto"]["source"] == "measured"
    assert not any(str(why).startswith("it raises") for why in later.reasons("large"))
    assert any(why.startswith("it raises IndexError") for why in later.reasons("broken"))
    names.clear()
    again = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    again.step()
    assert (names, again.told["auto"]["source"]) == ([], "disk"), "and then it is known"


def test_what_there_was_no_time_for_is_tried_at_the_next_start(
    hosts: list[Any], kernel: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "BUDGET", 100.0)
    kernel("slow", lambda x: time.sleep(0.1) or x)
    first = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    first.step()
    assert any(str(why).startswith("not tried: ") for why in first.reasons("sdpa")), first.reasons("sdpa")
    monkeypatch.setattr(trial, "BUDGET", 5_000.0)
    names = tried(monkeypatch)
    later = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    later.step()
    assert names[0] == "sdpa" and later.chosen == {"sdpa"}


def test_what_was_kept_does_not_grow_younger_when_more_is_measured(hosts: list[Any], tmp_path: Path) -> None:
    """That nothing was faster holds for a day only."""
    Auto(models.unet_patcher(), choices=Choices(tmp_path)).step()
    file = tmp_path / "attention.json"
    entries = json.loads(file.read_text())
    gone = next(iter(entries))
    old = {name: {**entry, "time": entry["time"] - 1000} for name, entry in entries.items() if name != gone}
    file.write_text(json.dumps(old))
    Auto(models.unet_patcher(), choices=Choices(tmp_path)).step()
    now = json.loads(file.read_text())
    assert gone in now
    assert {name: entry["time"] for name, entry in now.items() if name != gone} == {
        n: e["time"] for n, e in old.items()
    }


def test_what_was_only_completed_does_not_grow_younger_either(hosts: list[Any], tmp_path: Path) -> None:
    Auto(models.unet_patcher(), choices=Choices(tmp_path)).step()
    file = tmp_path / "attention.json"
    entries = json.loads(file.read_text())
    old = {name: {**entry, "results": [], "time": entry["time"] - 1000} for name, entry in entries.items()}
    file.write_text(json.dumps(old))
    Auto(models.unet_patcher(), choices=Choices(tmp_path)).step()
    now = json.loads(file.read_text())
    assert all(entry["results"] for entry in now.values())
    assert {name: entry["time"] for name, entry in now.items()} == {name: entry["time"] for name, entry in old.items()}


def test_what_was_kept_counts_where_there_is_no_time_to_try(
    hosts: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    first.step()
    file = tmp_path / "attention.json"
    entries = json.loads(file.read_text())
    for entry in entries.values():  # another candidate had no memory then
        entry["results"] = [one for one in entry["results"] if one["name"] == "sdpa"]
    file.write_text(json.dumps(entries))
    names = tried(monkeypatch)
    monkeypatch.setattr(trial.Trial, "may_go_on", False)
    later = Auto(models.unet_patcher(), choices=Choices(tmp_path))
    later.step()
    assert (names, later.chosen) == ([], first.chosen)


def test_a_new_size_takes_the_choice_over(hosts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    auto = Auto(models.unet_patcher())
    auto.step()
    names = tried(monkeypatch)
    before: list[Any] = [forward for _, forward in auto.patch.forwards]
    hosts.clear()
    auto.step(size=32, batch=1, tokens=77)
    assert (names, hosts) == ([], [])
    after: list[Any] = [forward for _, forward in auto.patch.forwards]
    assert [one.__func__ for one in after] == [one.__func__ for one in before]


def test_what_fails_in_trying_does_not_end_the_sampling(hosts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a part of a call takes operations and memory that the call itself does not."""

    def no_such_operation(call: HostCall, share: float) -> Any:
        raise NotImplementedError("aten::linspace is not implemented for this device")

    monkeypatch.setattr(HostCall, "part", no_such_operation)
    patcher = models.unet_patcher()
    plain = models.step(patcher)
    auto = Auto(patcher)
    assert torch.equal(auto.step(), plain)
    assert (auto.told["sites"], auto.told["auto"]["state"]) == ([], "no gain")
    assert torch.equal(auto.step(), plain)


def test_trying_ends_where_its_time_ends(
    hosts: list[Any], kernel: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that take long to find out that they gain nothing."""
    monkeypatch.setattr(trial, "BUDGET", 200.0)
    kernel("slow", lambda x: time.sleep(0.05) or x)
    auto = Auto(models.unet_patcher())
    began = time.perf_counter()
    auto.step()
    assert time.perf_counter() - began < 2.0
    assert auto.told["auto"]["seconds"] < 1
    assert torch.isfinite(auto.step()).all()


@pytest.mark.parametrize("named", [False, True], ids=["auto", "by name"])
def test_what_is_gained_is_that_of_whole_calls(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., None], named: bool
) -> None:
    """ComfyUI's sub-quadratic attention has large buffers made anew in a whole call, and small ones in a part."""
    import comfy.ldm.modules.attention as attention

    largest = 2 * 256 * 32

    def late(q: torch.Tensor, whole: float, others: float) -> None:
        time.sleep(whole if q.numel() == largest else others)

    def attention_slow(q: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        late(q, 0.7, 0.04)
        return attention.attention_pytorch(q, *args, **kwargs)

    slow = attention.wrap_attn(attention_slow)
    for name in ("optimized_attention", "optimized_attention_masked"):
        monkeypatch.setattr(attention, name, slow)
    kernel("steady", lambda x: late(x, 0.08, 0.025) or x)
    if named:
        patcher, told = models.unet_patcher(), {}
        sites = find_sites(patcher.model.diffusion_model)
        patch = MeasuredPatch(sites, get_processor("steady"), lambda options: None, told=told.update, choices=Choices())
        model = patcher.clone()
        attach(model, patch)
        models.step(model, sample_sigmas=STEPS)
        patch.tell()
        ratio = told["gain"]["attention_speedup"]
    else:
        auto = Auto(models.unet_patcher(), is_sdpa=True)
        auto.step()
        ratio = auto.told["auto"]["attention_speedup"]
    assert ratio > 2.5, "it is 1.6 on a part"


def test_a_trial_that_would_go_on_for_longer_than_it_may_ends_after_two_rounds(
    hosts: list[Any], kernel: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes as long as what was there is timed for more rounds than one that clearly wins or loses."""
    monkeypatch.setattr(trial, "BUDGET", 1.0)
    calls: list[int] = []
    kernel("even", lambda x: calls.append(1) or time.sleep(LATE) or x)
    auto = Auto(models.unet_patcher())
    auto.step()
    assert len(calls) == 3, "once to warm up, and twice"
    assert any(str(why).startswith("not tried: ") for why in auto.reasons("sdpa"))


def test_a_named_kernel_shows_what_it_gains_without_an_extra_step(hosts: list[Any]) -> None:
    patcher, told = models.unet_patcher(), {}
    sites = find_sites(patcher.model.diffusion_model)
    model = patcher.clone()
    patch = MeasuredPatch(
        sites,
        get_processor("sdpa"),
        lambda options: None,
        name="sdpa",
        model=patcher.model.diffusion_model,
        told=told.update,
        choices=Choices(),
    )
    attach(model, patch)
    models.step(model, sample_sigmas=STEPS)
    assert 0 < len(hosts) < 2 * len(sites), "a few calls of the host's, beside the others"
    hosts.clear()
    for _ in range(3):
        models.step(model, sample_sigmas=STEPS)
    assert hosts == []
    patch.tell()
    gain = told["gain"]
    assert gain["computed"] and gain["before_ms"] - gain["after_ms"] > LATE * 1e3, "of what there was time to look at"


class Remembering(Kernel):
    """Approximate, and what must not be called more than once a step."""

    approximate = True

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def attend(self, q, k, v, mask, scale):
        self.calls += 1
        return plain_attention(q, k, v, mask)


def test_what_is_approximate_is_not_run_twice_to_be_timed(hosts: list[Any]) -> None:
    patcher, processor = models.unet_patcher(), Remembering()
    sites = find_sites(patcher.model.diffusion_model)
    model = patcher.clone()
    attach(model, MeasuredPatch(sites, processor, lambda options: None, name="sage"))
    models.step(model, sample_sigmas=STEPS)
    assert (processor.calls, hosts) == (len(sites), [])


def test_calls_that_a_kernel_cannot_take_stay_with_comfyui_and_the_record_says_why(
    hosts: list[Any], kernel: Callable[..., None]
) -> None:
    from onediff_pack.processors.contract import Limits

    kernel("narrow", lambda x: x)
    narrow, told = get_processor("narrow"), {}
    type(narrow).limits, type(narrow).as_operator = Limits(head_dims=frozenset({4})), True
    patcher = models.unet_patcher()  # its deeper level has heads of 8
    model = patcher.clone()
    sites = find_sites(patcher.model.diffusion_model)
    patch = MeasuredPatch(sites, narrow, lambda options: None, name="narrow", told=told.update)
    attach(model, patch)
    torch.testing.assert_close(models.step(model), models.step(patcher), rtol=1e-4, atol=1e-5)
    patch.tell()
    (left,) = told["left"]
    assert left["reason"] == "head size 8 is not among 4"
    assert 0 < left["calls"] < len(sites)


def test_two_patches_in_a_row_each_learn_what_they_gain(hosts: list[Any]) -> None:
    patcher = models.unet_patcher()
    sites, told = find_sites(patcher.model.diffusion_model), {}
    here = [site for site in sites if site.path.startswith("middle_block")]
    auto = Auto(patcher)
    named = MeasuredPatch(here, get_processor("sliced"), lambda options: None, name="sliced", told=told.update)
    attach(auto.model, named)
    auto.step()
    auto.step()
    named.tell()
    assert told["gain"]["attention_speedup"] > 1
    assert {site["site"] for site in auto.told["sites"]} == {site.path for site in sites} - {site.path for site in here}


def test_one_step_is_enough_to_have_taken_part(hosts: list[Any]) -> None:
    auto = Auto(models.unet_patcher())
    ended: list[Any] = []
    auto.patch.ended = lambda unused, calls: ended.append((unused, calls.reached, calls.taken))

    def sample(*args: Any, **kwargs: Any) -> torch.Tensor:
        return auto.step()

    auto.patch.sampling(sample, torch.zeros(1), torch.zeros(1), None, torch.tensor([1.0, 0.0]))
    assert ended == [(None, len(auto.told["sites"]), None)]
