"""Patch Attention Processors where other nodes take some of its places, with and without OneDiff Compile behind it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from changes import Setup, conditioning, sample
from sessions import FakeBackend, compiled_clone, known, using

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
models = importlib.import_module("models")
pytestmark = pytest.mark.usefixtures("host")


def patched(model: Any, blocks: str = "", node: str = "1") -> tuple[Any, dict[str, Any]]:
    """The model that the node gives, and its record."""
    from comfy_api.latest import io
    from onediff_pack.nodes.patch_attention import OneDiffPatchAttention

    cls = OneDiffPatchAttention.PREPARE_CLASS_CLONE({"hidden_inputs": {io.Hidden.unique_id: node}})
    output = cls.execute(model=model, processor="sdpa", sites="all", blocks=blocks)
    return output.args[0], output.ui["onediff"][0]


class Couple:
    """Computes attention at two places itself, as nodes for regions do."""

    def __call__(self, model: Any) -> Any:
        model = model.clone()
        for place, number in (("input", 1), ("middle", 0)):
            model.set_model_attn2_replace(self.replaced, place, number)
        return model

    def replaced(self, q: Any, k: Any, v: Any, options: Any) -> Any:
        return q


class Skips:
    """Goes without a block that has two places, in every step."""

    def __call__(self, model: Any) -> Any:
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "skips", self.skipping)
        return model

    def skipping(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        block = executor.class_obj.middle_block[1]
        block.forward = lambda x, *args, **kwargs: x
        try:
            return executor(*args, **kwargs)
        finally:
            del block.forward


class Innocent(Skips):
    """A wrapper that leaves the model as it is."""

    def skipping(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(*args, **kwargs)


def second_patch(model: Any) -> Any:
    return patched(model, "middle_block*", "2")[0]


TAKEN: list[tuple[Callable[[Any], Any], str | None, int]] = [
    (Couple(), "Couple", 2),
    (second_patch, "Patch Attention Processors", 2),
    (lambda model: Couple()(second_patch(model)), None, 3),
    (Skips(), "Skips", 2),
    (Innocent(), None, 0),
]


@pytest.mark.parametrize("compiles", [False, True], ids=["uncompiled", "compiled"])
def test_the_places_that_other_nodes_take_are_not_called_patched(compiles: bool) -> None:
    """Nor where compiled blocks run from the first step on: the second sampling of each."""
    from onediff_pack.nodes.speed_report import taken

    whole, record = patched(models.unet_patcher())
    total = len(record["patches"]["sites"])
    with using(known(FakeBackend())):
        if compiles:
            whole, _, compiling = compiled_clone(whole)
        for put, by, others in TAKEN:
            for _ in range(2):
                sample(Setup(put(whole), conditioning(1), conditioning(2)))
                if compiles:
                    assert compiling["compile"]["regions_compiled"] > 10
                assert record["patches"]["reached"] == total - others
                if not others:
                    assert record["patches"]["taken"] is None
                    assert record["summary"].startswith(f"patched {total} sites · sdpa")  # what it gains may follow
                    assert taken(whole) == []
                    continue
                told = record["patches"]["taken"]
                assert (told["sites"], told["by"]) == (others, by)
                by_whom = f" (the others: “{by}”)" if by else ""
                assert record["summary"].startswith(f"patched {total - others} of {total} sites{by_whom} · sdpa")
                whose = f": “{by}” computed the others" if by else ""
                assert taken(whole) == [f"sdpa computed attention at {total - others} of {total} places{whose}."]
