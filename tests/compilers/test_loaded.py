"""Compiled blocks under processors that were loaded from files: what changes between pictures compiles nothing.

Dynamo captures, and nothing is compiled.
"""

from __future__ import annotations

from typing import Any

import loaded
import pytest
import torch
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")

import models

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def model() -> Any:
    return models.unet_patcher()


@pytest.fixture
def file(tmp_path, model) -> Any:
    torch.manual_seed(0)
    return loaded.opened(loaded.saved(tmp_path, loaded.ip_adapter(model, loaded.standard(48))))


def opaque(which: str) -> Any:
    """ComfyUI's attention that no graph can hold, which is the default on a CPU; None for PyTorch's."""
    from comfy.ldm.modules import attention

    return attention.attention_sub_quad if which == "sub-quadratic" else None


def compiled(patched: Any, attention: Any = None, **options: Any) -> torch.Tensor:
    """The last of some steps of a model with a session on it; every block ran compiled, and as it is uncompiled."""
    clone, _, record = compiled_clone(patched, opaque_attention=attention)
    for _ in range(3):
        result = models.step(clone, **options)
    assert record["compile"]["regions_uncompiled"] == []
    assert record["compile"]["regions_compiled"] == 15
    torch.testing.assert_close(result, models.step(patched, **options), atol=1e-5, rtol=1e-4)
    return result


@pytest.mark.parametrize("attention", ["pytorch", pytest.param("sub-quadratic", marks=pytest.mark.long)])
def test_another_picture_weight_mask_time_or_size_compiles_nothing(inductor, model, file, attention):
    own = opaque(attention)
    first = compiled(loaded.put(model, loaded.with_picture(file, loaded.picture(1))), own)
    before = inductor.graphs
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"given": loaded.picture(2)}, {}),
        ({"given": loaded.picture(2, pictures=3)}, {}),
        ({"weight": 0.3}, {}),
        ({"weight": 0.0}, {}),
        ({"mask": mask}, {}),
        ({"start": 0.9}, {}),
        ({}, {"size": 24}),
        ({}, {"batch": 4}),
    ]
    for given, options in changes:
        compiled(loaded.put(model, loaded.with_picture(file, **given)), own, **options)
        assert inductor.graphs == before, (given.keys(), options)
    again = compiled(loaded.put(model, loaded.with_picture(file, loaded.picture(1))), own)
    assert torch.equal(first, again), "A, B, A"


def test_a_second_file_compiles_once_and_then_nothing(inductor, model, file):
    one = loaded.put(model, loaded.with_picture(file, loaded.picture(1)))
    compiled(loaded.put(one, loaded.with_picture(file, loaded.picture(2))))
    before = inductor.graphs
    compiled(loaded.put(one, loaded.with_picture(file, loaded.picture(3), weight=0.5)))
    assert inductor.graphs == before


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("sdpa", "pytorch"),
        ("reference", "sub-quadratic"),
        pytest.param("sdpa", "sub-quadratic", marks=pytest.mark.long),
        pytest.param("reference", "pytorch", marks=pytest.mark.long),
    ],
)
def test_it_is_compiled_around_an_earlier_processor(inductor, model, file, name, attention):
    """A kernel, which it is put around, and one that takes the module's place, to whose result it is added."""
    from onediff_pack.patching.wrappers import attach
    from onediff_pack.processors import find_sites, get_processor
    from onediff_pack.processors.attention_patch import AttentionPatch

    before = model.clone()
    sites = [site for site in find_sites(before.model.diffusion_model) if site.kind == "cross"]
    attach(before, AttentionPatch(sites, get_processor(name), lambda options: None, name=name))
    one = compiled(loaded.put(before, loaded.with_picture(file, loaded.picture(1))), opaque(attention))
    graphs = inductor.graphs
    other = compiled(loaded.put(before, loaded.with_picture(file, loaded.picture(2))), opaque(attention))
    assert inductor.graphs == graphs
    assert (one - other).abs().max() > 1e-4
