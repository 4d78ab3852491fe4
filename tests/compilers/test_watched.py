"""Compiled code that was right at first and is wrong later does not stay unseen."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from onediff_pack.compilers.measuring.step_measuring import Measuring
from onediff_pack.compilers.session import faults
from onediff_pack.compilers.session.faults import COSTS, SHARE, Turns, all_finite
from onediff_pack.compilers.session.one_block import first_runs
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.built_in.sdpa import SDPAProcessor
from sessions import compiled_clone
from torch.utils import _pytree as pytree

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(params=["unet", "flux"])
def patcher(request):
    import models

    return getattr(models, f"{request.param}_patcher")()


def spoiled(result, how):
    return pytree.tree_map(lambda leaf: how(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)


def sample(session, clone, steps, **options):
    """All results of a sampling."""
    from models import step

    return session.sampling(lambda: [step(clone, **options) for _ in range(steps)])


def regions(record):
    return record["compile"]["regions_compiled"], {r["reason"] for r in record["compile"]["regions_uncompiled"]}


@pytest.mark.parametrize("other", [{"size": 24}, {"batch": 4}])
def test_wrong_only_for_another_size_or_batch(patcher, backend, other):
    from models import step

    seen: set[tuple] = set()
    learning = [True]

    def wrong(name, result):
        form = name, *(tuple(leaf.shape) for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor))
        if learning:
            seen.add(form)
        return result if form in seen else spoiled(result, lambda leaf: leaf * 1.01)

    clone, session, record = compiled_clone(patcher)
    backend.change = wrong
    sample(session, clone, 3)
    assert (record["state"], record["parity"]["passed"]) == ("compiled", True)
    learning.clear()
    plain = step(patcher, **other)
    for result in sample(session, clone, 3, **other):
        torch.testing.assert_close(result, plain)
    compiled, reasons = regions(record)
    assert compiled < len(session.blocks)
    assert all("differs from the uncompiled one by 1.0e-02" in reason for reason in reasons)
    assert not record["parity"]["passed"]


def compiled_step(session, clone, **options):
    """Samples until a step is no uncompiled one of a pair, and says whether that one was compared."""
    for _ in range(3):
        sample(session, clone, 1, **options)
        if session.step.dirty or session.step.ran_compiled:
            return session.step.dirty
    raise AssertionError("no step ran compiled")


def test_a_new_size_costs_one_uncompiled_run_of_each_block_once(patcher, backend):
    clone, session, _record = compiled_clone(patcher)
    sample(session, clone, 12)
    before = len(backend.ran)
    assert compiled_step(session, clone, size=24)  # each block also uncompiled, whose result is used
    assert not compiled_step(session, clone, size=24), "nothing is compared a second time"
    assert not compiled_step(session, clone)
    assert len(backend.ran) - before == 3 * len(session.blocks)


def test_prompts_of_ever_other_lengths_are_compared_a_few_times_only(patcher, backend):
    clone, session, _record = compiled_clone(patcher)
    sample(session, clone, 12)
    compared = [compiled_step(session, clone, tokens=tokens) for tokens in range(21, 27)]
    assert compared == [True, True, False, False, False, False]


def test_wrong_from_some_call_on_is_seen_within_the_steps_that_it_may_cost(patcher, backend, monkeypatch):
    from models import step

    monkeypatch.setattr(faults, "SHARE", 3.0)
    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 20)
    assert record["state"] == "compiled"
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * 1.02)
    sample(session, clone, 2 * len(session.blocks) + 2)
    assert not record["parity"]["passed"]
    _, reasons = regions(record)
    assert all("pictures made since then may be wrong" in reason for reason in reasons)
    torch.testing.assert_close(sample(session, clone, 1)[0], plain)


def test_blocks_take_turns_within_the_share_of_the_time():
    class Known:
        compiled, operators = True, {}

    blocks: list[Any] = [Known() for _ in range(15)]
    blocks[3].operators = {"attn2_patch": "it keeps count"}
    turns = Turns()
    chosen = [turns.next(blocks) for _ in range(2000)]
    compared = [block for block in chosen if block is not None]
    assert len(compared) * COSTS / len(blocks) <= SHARE * len(chosen)
    assert len(set(map(id, compared))) == 14
    assert blocks[3] not in compared
    assert turns.next([]) is None


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_and_inf_are_never_used(patcher, backend, wrong):
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 6)
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * wrong)
    before = len(backend.ran)
    for result in sample(session, clone, 5):
        torch.testing.assert_close(result, plain)
    assert (record["state"], "compiled code gave NaN or Inf" in record["summary"]) == ("uncompiled", True)
    assert len(backend.ran) - before <= len(session.blocks)


def test_a_model_that_gives_nan_itself_stays_compiled_and_is_run_twice_in_one_step_only(patcher, backend):
    from models import step

    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    weight = next(iter(patcher.model.diffusion_model.parameters()))
    kept = weight.detach().clone()
    with torch.inference_mode():
        weight.fill_(math.nan)
    assert step(patcher).isnan().any()
    before = len(backend.ran)
    assert all(result.isnan().any() for result in sample(session, clone, 4))
    assert len(backend.ran) - before == 4 * len(session.blocks)
    assert (record["not_finite"], record["parity"]) == (True, None)
    with torch.inference_mode():
        weight.copy_(kept)
    sample(session, clone, 2)
    assert (record["state"], record["not_finite"], record["parity"]["passed"]) == ("compiled", None, True)


def test_where_no_step_is_waited_for_the_sampling_runs_once_more(patcher, backend, monkeypatch):
    """As on a GPU: there the result of a step is looked at only where Python waits for it anyway."""
    from models import step

    plain = step(patcher)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    monkeypatch.setattr(Measuring, "waited", False)
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * math.nan)
    result = session.sampling(lambda: [step(clone) for _ in range(3)][-1])
    torch.testing.assert_close(result, plain)
    assert (record["state"], "compiled code gave NaN or Inf" in record["summary"]) == ("uncompiled", True)


def test_a_model_that_gives_nan_itself_stays_compiled_there_too(patcher, backend, monkeypatch):
    from models import step

    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    monkeypatch.setattr(Measuring, "waited", False)
    with torch.inference_mode():
        next(iter(patcher.model.diffusion_model.parameters())).fill_(math.nan)
    samplings = []
    session.sampling(lambda: samplings.append(1) or step(clone))
    assert len(samplings) == 2
    assert record["state"] == "compiled"


def test_processors_begin_anew_with_the_sampling(patcher, backend, monkeypatch):
    from models import step

    begun = []
    clone, session, _record = compiled_clone(patcher)
    sites = find_sites(patcher.model.diffusion_model)
    attach(clone, AttentionPatch(sites, SDPAProcessor().eval(), lambda options: None))
    sample(session, clone, 12)
    monkeypatch.setattr(AttentionPatch, "begin_sampling", lambda patch: begun.append(patch))
    monkeypatch.setattr(Measuring, "waited", False)
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * math.nan)
    session.sampling(lambda: step(clone))
    assert begun == session.patches


@pytest.mark.parametrize("where", ["another size", "a turn"])
def test_no_memory_for_a_comparison_leaves_a_block_compiled(patcher, backend, monkeypatch, where):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    monkeypatch.setattr(faults, "SHARE", 3.0)
    asked = []

    def compared(compiled, uncompiled):
        asked.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(first_runs, "compare", compared)
    for _ in range(3):
        sample(session, clone, 2, **({"size": 24} if where == "another size" else {}))
    assert asked
    assert (record["state"], record["compile"]["regions_uncompiled"]) == ("compiled", [])


def test_what_was_right_at_another_size_says_nothing_of_this_one(patcher, backend, monkeypatch):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    sample(session, clone, 10, size=24)
    sample(session, clone, 30)
    monkeypatch.setattr(faults, "SHARE", 3.0)
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * 1.02)
    sample(session, clone, 2 * len(session.blocks), size=24)
    _, reasons = regions(record)
    steps = [int(found[1]) for reason in reasons if (found := re.search(r"right (\d+) steps earlier", reason))]
    assert steps and min(steps) > 30


def test_what_becomes_wrong_is_not_compiled_in_another_way_without_a_word(patcher, backend, monkeypatch):
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 12)
    monkeypatch.setattr(faults, "SHARE", 3.0)
    monkeypatch.setattr(type(session.compiler), "retry", lambda self, graph, parity: True)
    backend.change = lambda name, result: spoiled(result, lambda leaf: leaf * 1.02)
    sample(session, clone, 2 * len(session.blocks))
    assert not record["parity"]["passed"]
    assert "pictures made since then may be wrong" in str(record["compile"]["regions_uncompiled"])


def test_large_numbers_whose_sum_is_infinite_are_finite():
    assert all_finite((torch.full((4,), 3e38), [torch.tensor([1])]))
    assert not all_finite({"img": torch.tensor([1.0, -math.inf])})
