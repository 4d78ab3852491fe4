"""DeepCache above compiled blocks: the same results, and nothing that it leaves out is called uncompiled."""

from __future__ import annotations

import pytest
import torch
from passthrough import without_inductor
from sessions import compiled_clone

pytestmark = pytest.mark.usefixtures("host", "backend")


@pytest.mark.parametrize("ending", ["short", pytest.param("full", marks=pytest.mark.long)])
def test_blocks_stay_compiled_and_the_results_are_those_without_compiling(ending):
    from models import step, unet_patcher
    from onediff_pack.patching.skipping.deep_cache import CacheSettings, DeepCache
    from onediff_pack.patching.wrappers import KEY, attach

    plain = unet_patcher()
    sigmas = [3.0, 2.8, 2.5, 2.2, 2.0, 1.5, 1.2, 1.0][: 7 if ending == "full" else 8]

    def sample(clone) -> list[torch.Tensor]:
        def run(*wrappers) -> list[torch.Tensor]:
            if wrappers:
                return wrappers[0](lambda: run(*wrappers[1:]))
            return [step(clone, sigma=sigma, seed=number) for number, sigma in enumerate(sigmas)]

        return run(*clone.get_wrappers("outer_sample", KEY))

    told: list = []
    cached = plain.clone()
    attach(cached, DeepCache(CacheSettings(3, 0, 0), told.append))
    expected = sample(cached)
    with without_inductor() as compiler:
        clone, session, record = compiled_clone(plain, backend="inductor")
        attach(clone, DeepCache(CacheSettings(3, 0, 0), told.append))
        for _ in range(2):
            for result, other in zip(sample(clone), expected, strict=True):
                torch.testing.assert_close(result, other)
            graphs = compiler.graphs
        sample(clone)
        assert compiler.graphs == graphs, "nothing is compiled again"
    assert told[0] == {**told[1], "off": pytest.approx(told[1]["off"], rel=1e-3)}
    assert record["state"] == "compiled"
    assert (record["compile"]["regions"], record["compile"]["regions_compiled"]) == (len(session.blocks),) * 2
    assert record["compile"]["regions_not_called"] == []
