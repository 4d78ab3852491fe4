"""Foreign code inside compiled blocks: attention overrides, patches and replacements of other nodes run as operators.

On ComfyUI's own blocks, sampled by its own sampler; Dynamo captures, and nothing is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from changes import CHANGES, Setup, conditioning, relative, sample, strengthen
from onediff_pack.compilers.blocks.operators import block_call
from onediff_pack.patching.ending.stopping import Stopped
from onediff_pack.patching.wrappers import KEY, OUTER_SAMPLE, attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.proving.proof import Proof
from passthrough import Passthrough, without_inductor
from sessions import compiled_clone, known, using

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")

#: Largest ‖difference‖ of equal pictures.
TOLERANCE = 1e-5

LONG = pytest.mark.skipif("ONEDIFF_TEST_ALL" not in os.environ, reason="takes long; scripts/test.py --all runs it")

#: The block of a UNet that `patched` puts replacements on.
MIDDLE = "middle_block.1.transformer_blocks.0"

ON_A_UNET = (
    "attention override",
    "attention input patch",
    "cross-attention input patch",
    "attention output patch",
    "cross-attention output patch",
    "patch between attentions",
    "replaced attention",
    "replaced cross-attention",
    "perturbed attention",
)
FOREIGN = {
    "unet": ON_A_UNET,
    "sdxl": ON_A_UNET,
    "flux": ("attention override", "attention input patch", "attention output patch"),
}
#: In an ordinary run: one of each way to call it on a UNet, the others in test_soundness.py, and all on Flux.
ALWAYS = {
    "unet": ("attention override", "attention output patch", "patch between attentions", "replaced attention"),
    "sdxl": ("replaced cross-attention",),  # its place has a number more
    "flux": FOREIGN["flux"],
}


@dataclass
class Sitting:
    """A model of which compiled and uncompiled samplings are compared."""

    patcher: Any
    compiled: Any
    session: Any
    record: Any
    inductor: Passthrough
    plain: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.plain = self.uncompiled(lambda setup: None)

    def uncompiled(self, change: Callable[[Setup], None]) -> torch.Tensor:
        return self._sampled(self.patcher, change)

    def with_compiled(self, change: Callable[[Setup], None]) -> torch.Tensor:
        return self._sampled(self.compiled, change)

    def _sampled(self, model: Any, change: Callable[[Setup], None]) -> torch.Tensor:
        setup = Setup(model, conditioning(1), conditioning(2))
        change(setup)
        result = sample(setup)
        setup.restore()
        return result

    def assert_all_compiled(self) -> None:
        compile_ = self.record["compile"]
        assert compile_["regions_uncompiled"] == []
        assert compile_["regions_compiled"] == compile_["regions"]
        assert (compile_["graph_breaks"], self.record["state"]) == ([], "compiled")

    def kinds(self) -> int:
        return len({block.signature for block in self.session.blocks if block.called})


@pytest.fixture(scope="module")
def inductor(host):
    with without_inductor() as inductor:
        yield inductor


def new_sitting(model: str, inductor: Passthrough) -> Sitting:
    import models

    patcher = getattr(models, f"{model}_patcher")()
    strengthen(patcher.model)
    compiled, session, record = compiled_clone(patcher)
    compiled.add_wrapper_with_key(OUTER_SAMPLE, KEY, session.sampling)
    return Sitting(patcher, compiled, session, record, inductor)


@pytest.fixture(scope="module")
def sittings(inductor):
    made: dict[str, Sitting] = {}

    def sitting(model: str) -> Sitting:
        if model not in made:
            made[model] = new_sitting(model, inductor)
            made[model].with_compiled(lambda setup: None)
        return made[model]

    return sitting


def cases() -> list[Any]:
    """All of them; in an ordinary run those of ``ALWAYS``."""
    return [
        pytest.param(model, name, marks=() if name in ALWAYS[model] else LONG)
        for model, names in FOREIGN.items()
        for name in names
    ]


@pytest.mark.parametrize(("model", "name"), cases())
def test_blocks_stay_compiled_under_foreign_code(model, name, sittings):
    """Added, once more, taken away: all blocks compiled, one more graph a kind of block at most, none afterwards."""
    sitting, change = sittings(model), CHANGES[name][0]
    expected = sitting.uncompiled(change)
    assert relative(expected, sitting.plain) > 10 * TOLERANCE, "the change must show, or this test tells nothing"
    graphs = sitting.inductor.graphs
    assert relative(sitting.with_compiled(change), expected) <= TOLERANCE
    sitting.assert_all_compiled()
    added = sitting.inductor.graphs
    alone = sitting.kinds() if name == "perturbed attention" else 0  # calls the model once more, with one prompt
    assert added - graphs <= sitting.kinds() + alone
    assert relative(sitting.with_compiled(change), expected) <= TOLERANCE, "with a function object that is a new one"
    assert relative(sitting.with_compiled(lambda setup: None), sitting.plain) <= TOLERANCE
    sitting.assert_all_compiled()
    assert sitting.inductor.graphs == added


def patched(**patches: Any) -> Callable[[Setup], None]:
    """A change that puts functions on the MODEL: ``attn1_patch``, ``override``, ``attn1_replace`` in the middle block,
    and so on."""

    def change(setup: Setup) -> None:
        setup.model = setup.model.clone()
        for name, function in patches.items():
            if name == "override":
                setup.model.model_options["transformer_options"]["optimized_attention_override"] = function
            elif name.endswith("_replace"):
                getattr(setup.model, f"set_model_{name}")(function, "middle", 0)
            else:
                setup.model.set_model_patch(function, name)

    return change


def scaled(by: float) -> Callable[[Setup], None]:
    return patched(override=lambda func, *args, **kwargs: func(*args, **kwargs) * by)


def test_an_override_that_a_processor_takes_the_place_of_stays_out_beside_a_replacement(sittings):
    """An override, then a processor, then a replacement of the middle block's attention. What the block computes
    uncompiled, while it is compared, is the picture's."""
    sitting, halved = sittings("unet"), scaled(0.5)

    def change(setup: Setup) -> None:
        halved(setup)
        before = setup.model.model_options["transformer_options"]["optimized_attention_override"]
        setup.model = setup.model.clone()
        sites = find_sites(setup.model.model.diffusion_model)
        attach(setup.model, AttentionPatch(sites, get_processor("sdpa"), lambda options: None, superseded=before))
        CHANGES["replaced attention"][0](setup)

    expected = sitting.uncompiled(change)
    assert relative(sitting.uncompiled(halved), sitting.plain) > 10 * TOLERANCE, "else the override would not show"
    for _ in range(2):
        assert relative(sitting.with_compiled(change), expected) <= TOLERANCE
        sitting.assert_all_compiled()


@pytest.mark.parametrize("model", ["unet", "flux_of_nine"])
def test_another_function_or_value_costs_no_compile(model, sittings):
    sitting = sittings(model)
    sitting.with_compiled(scaled(0.5))
    graphs = sitting.inductor.graphs
    for by in (0.9, 0.2, 0.5):
        assert relative(sitting.with_compiled(scaled(by)), sitting.uncompiled(scaled(by))) <= TOLERANCE
        sitting.assert_all_compiled()
    assert sitting.inductor.graphs == graphs


class Witness:
    """Foreign functions that note with what they were called, draw a number each time, and hand on what they share."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []
        self.drawn = torch.Generator().manual_seed(7)

    def _note(self, name: str, options: dict[str, Any], tensors: tuple) -> float:
        options["shared"] = options.get("shared", 0) + 1
        sizes = tuple(options.get(key) for key in ("n_heads", "dim_head", "block", "block_index", "block_type"))
        told = (str(options.get("img_slice")), float(options["sigmas"][0]), tuple(options["cond_or_uncond"]))
        self.seen.append(
            (name, sorted(map(str, options)), options["shared"], *sizes, *told, [t.shape for t in tensors])
        )
        return 1 + torch.rand((), generator=self.drawn).item() / 4

    def override(self, func, q, k, v, heads, *args, **kwargs):
        by = self._note("override", {**kwargs["transformer_options"], "heads": heads}, (q, k, v))
        return func(q, k, v, heads, *args, **kwargs) * by

    def unet_patch(self, q, k, v, extra_options):
        return q, k, v * self._note("attn1_patch", extra_options, (q, k, v))

    def flux_patch(self, q, k, v, pe=None, attn_mask=None, extra_options=None):
        return {"q": q, "k": k, "v": v * self._note("attn1_patch", extra_options, (q, k, v, pe)), "pe": pe}

    def output_patch(self, x, extra_options):
        return x * self._note("attn1_output_patch", extra_options, (x,))

    def replace(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        by, heads = self._note("attn2_replace", extra_options, (q, k, v)), extra_options["n_heads"]
        return optimized_attention(q, k, v, heads, transformer_options=extra_options) * by

    def change(self, model: str) -> Callable[[Setup], None]:
        if model == "flux":
            return patched(attn1_patch=self.flux_patch, attn1_output_patch=self.output_patch, override=self.override)
        return patched(
            attn1_patch=self.unet_patch,
            attn1_output_patch=self.output_patch,
            attn2_replace=self.replace,
            override=self.override,
        )


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_foreign_code_runs_once_a_call_with_its_own_options(model, sittings):
    """Also in the steps that are watched, compiled and compared. An override runs inside a replacement."""
    sitting = sittings(model)
    expected = Witness()
    picture = sitting.uncompiled(expected.change(model))
    for when in ("compared", "compiled"):
        witness = Witness()
        assert relative(sitting.with_compiled(witness.change(model)), picture) <= TOLERANCE, when
        assert witness.seen == expected.seen, when
    sitting.assert_all_compiled()


def writing_patch(q, k, v, extra_options):
    v.mul_(0.5)
    return q, k, v


def writing_override(func, q, k, v, *args, **kwargs):
    k.sub_(k.mean())  # as SageAttention does
    return func(q, k, v, *args, **kwargs)


def context_patch(q, k, v, extra_options):
    k.mul_(0.5)  # the prompt itself, which all later blocks are given
    return q, k, v


def faint_context_patch(q, k, v, extra_options):
    k.mul_(1 + 9e-5)  # too little for the comparison of a block
    return q, k, v


class Keeping:
    """Gives the same tensor each time."""

    def __init__(self) -> None:
        self.kept: dict[tuple, torch.Tensor] = {}

    def __call__(self, x: torch.Tensor, extra_options: dict) -> torch.Tensor:
        kept = self.kept.setdefault((*extra_options["block"], x.shape), torch.ones_like(x))
        return kept.copy_(x * 0.5)


class Longer:
    """From the third step on the keys are twice as many."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, q, k, v, extra_options):
        self.calls += 1
        if float(extra_options["sigmas"][0]) > 2:
            return q, k, v
        return q, torch.cat([k, k], 1), torch.cat([v, v * 2], 1)


HOSTILE: dict[str, Callable[[], Callable[[Setup], None]]] = {
    "writes into what it is given": lambda: patched(attn1_patch=writing_patch),
    "writes into keys": lambda: patched(override=writing_override),
    "writes into the prompt": lambda: patched(attn2_patch=context_patch),
    "writes a little into the prompt": lambda: patched(attn2_patch=faint_context_patch),
    "gives what it keeps": lambda: patched(middle_patch=Keeping()),
    "gives what it was given": lambda: patched(attn1_output_patch=lambda x, extra: x.view_as(x)),
    "gives other strides": lambda: patched(attn1_output_patch=lambda x, e: (x * 0.5).mT.contiguous().mT),
    "gives more tokens later": lambda: patched(attn2_patch=Longer()),
    "is two patches": lambda: patched(middle_patch=lambda x, e: x * 0.5, attn1_patch=lambda q, k, v, e: (q, k, v * 2)),
}

#: Why blocks run uncompiled under these; under the others they do not.
REASONS = {
    "writes into the prompt": "it writes into what the block was given",
    "writes a little into the prompt": "it writes into what the block was given",
    "gives more tokens later": "it changes the number of tokens",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_gives_the_picture_that_it_gives_uncompiled(name, sittings):
    sitting = sittings("unet")
    expected = sitting.uncompiled(HOSTILE[name]())
    for _ in range(2):
        assert relative(sitting.with_compiled(HOSTILE[name]()), expected) <= TOLERANCE
        reasons = {one["reason"] for one in sitting.record["compile"]["regions_uncompiled"]}
        assert all(REASONS.get(name, "none is expected") in reason for reason in reasons), "\n".join(reasons)
    assert bool(reasons) is (name in REASONS)
    assert relative(sitting.with_compiled(lambda setup: None), sitting.plain) <= TOLERANCE
    sitting.assert_all_compiled()


def test_a_write_that_compiled_code_comes_upon_takes_effect(sittings):
    """Blocks were compiled with a function that does not write; the next one in its place does."""
    sitting = sittings("unet")
    sitting.with_compiled(patched(attn2_patch=lambda q, k, v, extra_options: (q, k * 0.5, v)))

    def writing(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict) -> tuple:
        k.mul_(0.5)
        return q, k, v

    expected = sitting.uncompiled(patched(attn2_patch=writing))
    assert relative(sitting.with_compiled(patched(attn2_patch=writing)), expected) <= TOLERANCE


def test_a_block_that_goes_on_with_what_foreign_code_wrote_into_is_compared_with_each_writer(inductor, monkeypatch):
    """ComfyUI's own blocks let go of keys and values after attention; of blocks of other nodes nobody knows."""
    from comfy.ldm.modules import attention

    def with_values(self, x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        out = attention.optimized_attention(q, k, v, self.heads, transformer_options=transformer_options or {})
        return self.to_out(out + v.mean(1, keepdim=True))

    def writer(func, q, k, v, *args, **kwargs):
        out = func(q, k, v, *args, **kwargs)
        v.mul_(0.2)
        return out

    monkeypatch.setattr(attention.CrossAttention, "forward", with_values)
    with using(known(inductor=Proof(True, "stands in.", 0.0))):  # graphs that no other test compiled
        sitting = new_sitting("unet", inductor)
    for change in (scaled(0.5), patched(override=writer)):
        expected = sitting.uncompiled(change)
        for _ in range(2):
            assert relative(sitting.with_compiled(change), expected) <= TOLERANCE
    assert relative(expected, sitting.uncompiled(scaled(1.0))) > 100 * TOLERANCE, "what it writes matters"


def test_what_foreign_code_raises_is_raised_and_nothing_is_given_up(sittings):
    sitting, raised = sittings("flux"), []

    class Stopped(BaseException):
        pass

    def breaking(kind, at):
        def override(func, *args, **kwargs):
            raised.append(None)
            if len(raised) == at:
                raise kind("on purpose")
            return func(*args, **kwargs) * 0.5

        return patched(override=override)

    sitting.with_compiled(scaled(0.5))
    for kind in (ValueError, Stopped):
        raised.clear()
        with pytest.raises(kind, match="on purpose"):
            sitting.with_compiled(breaking(kind, 8))
        assert len(raised) == 8, "nothing is tried again"
    assert relative(sitting.with_compiled(scaled(0.5)), sitting.uncompiled(scaled(0.5))) <= TOLERANCE
    sitting.assert_all_compiled()


def test_cancel_gets_through_from_inside_a_graph(sittings, monkeypatch):
    sitting = sittings("flux")
    sitting.with_compiled(scaled(0.5))

    def cancelled(gm: torch.fx.GraphModule) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(sitting.inductor, "ran", cancelled)
        with pytest.raises(Stopped):
            sitting.with_compiled(scaled(0.5))
    assert relative(sitting.with_compiled(scaled(0.5)), sitting.uncompiled(scaled(0.5))) <= TOLERANCE
    sitting.assert_all_compiled()


def operators_in(gm: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in gm.graph.nodes if "onediff_comfy" in str(node.target)]


@pytest.mark.parametrize("model", ["flux", "unet"])
def test_a_graph_that_fails_after_foreign_code_ran_does_not_run_it_again(model, inductor, monkeypatch):
    """Neither that in its own block nor, from a UNet's blocks without attention, that in others. Flux's blocks write
    into their inputs: what a failed run left there is put back."""
    sitting, expected, witness = new_sitting(model, inductor), Witness(), Witness()
    picture = sitting.uncompiled(expected.change(model))
    sitting.with_compiled(Witness().change(model))
    sitting.assert_all_compiled()
    runs = {True: 0, False: 0}

    def failing(gm: torch.fx.GraphModule) -> None:
        has_operators = bool(operators_in(gm))
        runs[has_operators] += 1
        if runs[has_operators] in (3, 8):
            raise RuntimeError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(inductor, "ran", failing)
        assert relative(sitting.with_compiled(witness.change(model)), picture) <= TOLERANCE
    assert runs[True] >= 8
    assert (runs[False] >= 8) is (model == "unet")
    assert witness.seen == expected.seen
    reasons = [one["reason"] for one in sitting.record["compile"]["regions_uncompiled"]]
    assert all("on purpose" in reason for reason in reasons)
    assert "on purpose" in " ".join([sitting.record["backend"]["reason"], *reasons]), "given up, or compiled otherwise"


@pytest.mark.parametrize("at", [(2, 9), (2, 50)], ids=["watched and compared", "watched and compiled"])
def test_without_memory_for_copies_the_picture_is_right_and_nothing_runs_twice(at, inductor, monkeypatch):
    """What other nodes' code is given, and gives, may be large."""
    sitting, expected, witness = new_sitting("flux", inductor), Witness(), Witness()
    picture, clones, calls = sitting.uncompiled(expected.change("flux")), block_call._clones, []

    def failing(tensors):
        calls.append(None)
        if len(calls) in at:
            raise torch.OutOfMemoryError("on purpose")
        return clones(tensors)

    monkeypatch.setattr(block_call, "_clones", failing)
    assert relative(sitting.with_compiled(witness.change("flux")), picture) <= TOLERANCE
    assert witness.seen == expected.seen
    assert len(calls) >= max(at)


def test_wrong_arguments_of_foreign_code_are_found(inductor, monkeypatch):
    """While a block is compared, foreign code is not asked again, so they change nothing in the result."""
    with using(known(inductor=Proof(True, "stands in.", 0.0))):  # graphs that no other test compiled
        sitting = new_sitting("unet", inductor)
    halved = patched(attn1_replace=lambda q, k, v, extra_options: v * 0.5)
    expected = sitting.uncompiled(halved)

    def spoil(gm: torch.fx.GraphModule) -> None:
        for node in operators_in(gm):
            given: Any = node.args[1]
            with gm.graph.inserting_before(node):
                wrong = [gm.graph.call_function(torch.mul, (one, 1.5)) for one in given]
            node.args = (node.args[0], wrong, *node.args[2:])
        gm.recompile()

    with monkeypatch.context() as patch:
        patch.setattr(inductor, "spoil", spoil)
        for _ in range(2):
            assert relative(sitting.with_compiled(halved), expected) <= TOLERANCE
    assert [one["path"] for one in sitting.record["compile"]["regions_uncompiled"]] == [MIDDLE]


def test_the_record_says_what_runs_inside(sittings):
    sitting = sittings("flux")
    sitting.with_compiled(scaled(0.5))
    (operator,) = sitting.record["compile"]["operators"]
    assert (operator["what"], operator["blocks"]) == ("attention override", 5)
    assert operator["where"].endswith("scaled.<locals>.<lambda>")
    assert operator["ms"] > 0
    assert "with attention from " in sitting.record["summary"]
    sitting.with_compiled(lambda setup: None)
    assert sitting.record["compile"]["operators"] == []
    assert "with attention" not in sitting.record["summary"]
