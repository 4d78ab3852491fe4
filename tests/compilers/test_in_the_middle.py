"""What another node sets on a model in the middle of a sampling takes effect as without this pack: at that step, while
it is there, and no longer. Dynamo captures blocks here; nothing else compiles them."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from onediff_pack.compilers.backends.deployable import entry_of
from onediff_pack.compilers.blocks.shared_graph import SharedGraph
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch
from sessions import FakeBackend, compiled_clone, known, using
from torch import nn
from torch.utils import _pytree as pytree

pytestmark = pytest.mark.usefixtures("host")

#: Steps of a sampling, and those in which the change comes and goes, inside the model call.
STEPS, COMES, GOES = 9, 4, 7


class Captures(FakeBackend):
    def compile(self, block: nn.Module, graph: SharedGraph, effort: str) -> Callable:
        if graph.runner is None:
            graph.runner = torch.compile(entry_of(graph), backend="eager", fullgraph=True)

        def run(*args: Any, **kwargs: Any) -> Any:
            assert graph.runner is not None
            result = graph.runner(block, args, kwargs)
            graph.graphs = graph.graphs or 1
            return result

        return run


@pytest.fixture
def captured() -> Iterator[None]:
    with using(known(Captures())):
        yield


def scaled(result: Any) -> Any:
    return pytree.tree_map(lambda one: one * 1.5 if isinstance(one, torch.Tensor) else one, result)


def on_result(module: nn.Module, args: Any, result: Any) -> Any:
    return scaled(result)


def _around(found: Callable) -> Callable:
    return lambda *args, **kwargs: scaled(found(*args, **kwargs))


@contextmanager
def _forward_of(module: nn.Module) -> Iterator[None]:
    """Goes on to what it found, and puts that back."""
    found = module.forward
    module.forward = _around(found)  # type: ignore[method-assign]
    yield
    module.forward = found  # type: ignore[method-assign]


def forward_of_block(model: Any) -> AbstractContextManager[None]:
    return _forward_of(model.double_blocks[1])


def forward_inside(model: Any) -> AbstractContextManager[None]:
    return _forward_of(model.double_blocks[1].img_attn.proj)


@contextmanager
def forward_of_class(model: Any) -> Iterator[None]:
    cls = type(model.double_blocks[1].img_attn.norm)
    found = cls.forward
    cls.forward = _around(found)
    yield
    cls.forward = found


def hook(model: Any) -> AbstractContextManager[Any]:
    return model.double_blocks[1].img_attn.proj.register_forward_hook(on_result)


def hook_on_all(model: Any) -> AbstractContextManager[Any]:
    linear = model.double_blocks[1].img_attn.proj

    def on_one(module: nn.Module, args: Any, result: Any) -> Any:
        return scaled(result) if module is linear else result

    return nn.modules.module.register_module_forward_hook(on_one)


@contextmanager
def hooks_in_a_new_dict(model: Any) -> Iterator[None]:
    inner = model.double_blocks[1].img_attn.proj
    found = inner._forward_hooks
    inner._forward_hooks = collections.OrderedDict()
    with inner.register_forward_hook(on_result):
        yield
    inner._forward_hooks = found


@contextmanager
def another_module(model: Any) -> Iterator[None]:
    attention = model.double_blocks[1].img_attn
    found = attention.proj
    attention.proj = copy.deepcopy(found)
    attention.proj.register_forward_hook(on_result)
    yield
    attention.proj = found


CHANGES = [
    *(forward_of_block, forward_inside, forward_of_class),
    *(hook, hook_on_all, hooks_in_a_new_dict, another_module),
]


def results(
    patcher: Any, change: Callable, sample: Callable[[Callable], Any] = lambda run: run()
) -> list[torch.Tensor]:
    """Those of each step, with a node that changes the model inside its calls."""
    import models

    model, count, during = patcher.model.diffusion_model, iter(range(STEPS)), []

    def inside(executor: Callable, *args: Any, **kwargs: Any) -> Any:
        number = next(count)
        if number == COMES:
            during.append(change(model))
            during[-1].__enter__()
        if number == GOES:
            during[-1].__exit__(None, None, None)
        return executor(*args, **kwargs)

    clone = patcher.clone()
    clone.add_wrapper_with_key("diffusion_model", "another node", inside)
    return sample(lambda: [models.step(clone) for _ in range(STEPS)])


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_compiled_as_uncompiled(captured: None, change: Callable) -> None:
    import models

    patcher = models.flux_patcher()
    expected = results(patcher, change)
    clone, session, record = compiled_clone(patcher)
    found = results(clone, change, session.sampling)
    for number, (ours, stock) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, stock, msg=f"step {number + 1}")
    assert not torch.allclose(expected[COMES], expected[GOES]), "it shows"
    session.sampling(lambda: [models.step(clone) for _ in range(3)])
    assert record["compile"]["regions_compiled"] == len(session.blocks), "all is as it was"
    left = [vars(module)["forward"] for module in patcher.model.modules() if "forward" in vars(module)]
    assert not [forward for forward in left if "onediff" in forward.__module__]


@pytest.mark.parametrize("change", [forward_of_block, forward_inside], ids=lambda change: change.__name__)
def test_patched_as_unpatched(change: Callable) -> None:
    import models

    patcher = models.flux_patcher()
    expected = results(patcher, change)
    clone = patcher.clone()
    patch = AttentionPatch(find_sites(patcher.model.diffusion_model), get_processor("sdpa"), lambda options: None)
    attach(clone, patch)
    for ours, stock in zip(results(clone, change), expected, strict=True):
        torch.testing.assert_close(ours, stock)


def test_a_forward_that_stays_goes_on_to_what_it_found_also_without_this_pack(captured: None) -> None:
    import models

    patcher = models.flux_patcher()
    stays = forward_of_block(patcher.model.diffusion_model)
    clone, session, _record = compiled_clone(patcher)
    count = iter(range(100))

    def inside(executor: Callable, *args: Any, **kwargs: Any) -> Any:
        if next(count) == COMES:
            stays.__enter__()
        return executor(*args, **kwargs)

    clone.add_wrapper_with_key("diffusion_model", "another node", inside)
    found = session.sampling(lambda: [models.step(clone) for _ in range(STEPS)])
    bypassed = models.step(patcher)
    torch.testing.assert_close(found[-1], bypassed)
    other = models.flux_patcher()
    with forward_of_block(other.model.diffusion_model):
        torch.testing.assert_close(bypassed, models.step(other))


def _tiling(conv: Any) -> None:
    """What nodes for seamless pictures put on convolutions."""

    def circular(self: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        sides = self._reversed_padding_repeated_twice
        return nn.functional.conv2d(nn.functional.pad(x, sides, mode="circular"), weight, bias, self.stride)

    conv._conv_forward = circular.__get__(conv)


def _as_it_was(conv: Any) -> None:
    """As they put it back: on the module."""
    conv._conv_forward = nn.Conv2d._conv_forward.__get__(conv)


def _of_class(conv: Any) -> None:
    found = nn.Conv2d._conv_forward
    cls: Any = type(conv)
    cls._conv_forward = lambda *args: found(*args) * 1.5


@pytest.mark.parametrize("sets", [(_as_it_was, _tiling, _as_it_was), (_of_class,)], ids=["a module's", "a class's"])
def test_a_method_that_is_replaced_below_a_forward_takes_effect(captured: None, sets: tuple[Callable, ...]) -> None:
    import models

    patcher = models.unet_patcher()
    conv = next(m for m in patcher.model.diffusion_model.input_blocks[1].modules() if isinstance(m, nn.Conv2d))
    clone, session, _record = compiled_clone(patcher)
    plain, found = models.step(patcher), []
    try:
        session.sampling(lambda: [models.step(clone) for _ in range(4)])
        for put in sets:
            put(conv)
            found.append(models.step(patcher))
            again = session.sampling(lambda: [models.step(clone) for _ in range(4)])
            torch.testing.assert_close(again[-1], found[-1])
    finally:
        vars(conv).pop("_conv_forward", None)
        if "_conv_forward" in vars(type(conv)):
            del type(conv)._conv_forward
    assert any(not torch.allclose(one, plain) for one in found), "it shows"
    torch.testing.assert_close(session.sampling(lambda: [models.step(clone) for _ in range(4)])[-1], plain)
