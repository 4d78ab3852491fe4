"""Whether a processor keeps something between calls: seen on two new instances, called with different numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from ...processors import written
from ...processors.authored.recipe import Recipe, recipe_of
from ...processors.authored.site_values import ids_in
from ...processors.authored.state import differing, places_of, prints
from ...processors.random_numbers import numbers_kept
from ..graph.calls import Calls, calls_at
from ..mounted import Mounted
from .bench import site_stand_in
from .standin import random_weight, stand_in

#: Calls of each instance. What a first one makes for the others to use is no state.
CALLS = 3


def keeping(mounted: Mounted) -> None:
    """Evidence: noted with what makes its instances. Kept is what later calls change, or what depends on the numbers
    that it was called with; what every instance makes alike at its first call is harmless. A call that fails says
    nothing."""
    recipe = recipe_of(mounted.processor)
    if recipe is None or recipe.keeps:
        return
    calls = calls_at(mounted)
    if calls is None:
        return
    with torch.inference_mode():
        try:
            runs = [mounted.apart(partial(_run, calls, recipe, seed)) for seed in (1, 2)]
        except mounted.attendance.stops:
            raise
        except BaseException:  # whatever forward raises is told elsewhere
            return
        finally:
            recipe.pristine.put_back()
    one, other = runs
    first = frozenset().union(*(differing(run[0], run[-1]) for run in runs))
    later = frozenset().union(*(differing(a, b) for run in runs for a, b in itertools.pairwise(run[1:])))
    recipe.keeps |= later | (first & differing(one[-1], other[-1]))
    recipe.harmless |= first - recipe.keeps


def _run(calls: Calls, recipe: Recipe, seed: int) -> list[dict[str, Any]]:
    """What a new instance keeps before its first call and after each."""
    recipe.pristine.put_back()
    mounted, device = calls.mounted, calls.device
    with numbers_kept(device, seed):

        def weight(tensor: torch.Tensor) -> torch.Tensor:
            return random_weight(tensor.shape, mounted.dtype).to(device)

        attn = None if calls.attn is None else site_stand_in(mounted.site, weight)
        processor = recipe.instance(mounted.site)
        if attn is not None and recipe.per_site:
            processor = stand_in(processor, torch.clone, _instead(mounted.site.module, attn))
        foreign: frozenset[int] = frozenset() if attn is None else frozenset(map(id, attn.modules()))
        places = places_of(written(processor), foreign | ids_in(mounted.site))
        given = replace(calls, attn=attn)
        found = [prints(places, by_value=True)]
        for _ in range(CALLS):
            processor(*given.arguments())
            found.append(prints(places, by_value=True))
    return found


def _instead(module: nn.Module, stands_in: nn.Module) -> dict[int, nn.Module]:
    return {id(own): other for own, other in zip(module.modules(), stands_in.modules(), strict=True)}
