"""A backend that nobody here knows goes through OneDiff's registry like the others, without Dynamo or Inductor."""

from __future__ import annotations

import pytest
import torch
from onediff.infer_compiler.backends import registry
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from onediff_pack.compilers.backends.protocol import Failure
from onediff_pack.compilers.backends.through_onediff import compile_through_onediff
from onediff_pack.compilers.session.failures import ModelUnfit
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import KernelProcessor, find_sites, get_processor, select_sites
from onediff_pack.processors.attention_patch import AttentionPatch
from sessions import FakeBackend, compiled_clone, known, using

pytestmark = pytest.mark.usefixtures("host")


class Eager(DeployableModule):
    """Runs the block as it is, and counts."""

    def __init__(self, block, graph):
        torch.nn.Module.__init__(self)
        self.__dict__.update(block=block, graph=graph)

    def forward(self, *args, **kwargs):
        self.graph.graphs = 1
        self.graph.runs += 1
        return self.graph.forward(self.block, *args, **kwargs)


class EagerBackend(FakeBackend):
    name = "eager"
    explained = 0

    def compile(self, block, graph, effort):
        return compile_through_onediff(block, self.name, {"graph": graph})

    def explain(self, error):
        self.explained += 1
        return Failure(f"eager says: {error}")


@pytest.fixture
def asked(monkeypatch):
    """The modules that OneDiff handed to the backend. Dynamo is out of reach."""
    modules = []

    def compile_eager(module, *, options=None):
        modules.append(type(module).__name__)
        return Eager(module, options["graph"])

    def unreachable(*args, **kwargs):
        raise AssertionError("only the inductor backend may use this")

    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    registry.register_backend("eager")(compile_eager)
    monkeypatch.setattr(torch, "compile", unreachable)
    monkeypatch.setattr(torch._dynamo, "optimize", unreachable)
    with using(known(EagerBackend())):
        yield modules


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_a_backend_of_its_own(model, asked):
    import models

    patcher = getattr(models, f"{model}_patcher")()
    clone, session, record = compiled_clone(patcher)
    results = session.sampling(lambda: [models.step(clone) for _ in range(4)])
    for result in results:
        torch.testing.assert_close(result, models.step(patcher))
    assert (record["state"], record["backend"]["used"]) == ("compiled", "eager")
    assert len(asked) == len(session.blocks) == record["compile"]["regions_compiled"]
    kinds = {block.signature for block in session.blocks}
    graphs = {graph for block in session.blocks for graph in block.graphs.values()}
    assert record["compile"]["graphs"] == len(kinds) == len(graphs)
    assert sum(graph.runs for graph in graphs) >= 2 * len(session.blocks)


def raise_key_error(self, *args, **kwargs):
    raise KeyError("no such operator")


def test_its_failures_are_in_its_own_words(asked, monkeypatch):
    import models

    monkeypatch.setattr(Eager, "forward", raise_key_error)
    patcher = models.flux_patcher()
    clone, session, record = compiled_clone(patcher)
    (result,) = session.sampling(lambda: [models.step(clone) for _ in range(3)])[-1:]
    torch.testing.assert_close(result, models.step(patcher))
    assert record["state"] == "uncompiled"
    assert {r["reason"] for r in record["compile"]["regions_uncompiled"]} == {"eager says: 'no such operator'"}


class Loud(KernelProcessor):
    """What no graph can hold."""

    def forward(self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, scale=None, gqa=False):
        print("attention of", tuple(q.shape))  # noqa: T201
        return get_processor("sdpa")(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, gqa)


def test_a_block_whose_processor_only_an_operator_can_be_is_left_or_ends_the_run_as_the_user_chose():
    import models

    plain = models.flux_patcher()
    patcher = plain.clone()
    sites = select_sites(find_sites(plain.model.diffusion_model), "all", "double_blocks.0")
    attach(patcher, AttentionPatch(sites, Loud(), lambda options: None))
    with using(known(FakeBackend())):
        clone, session, record = compiled_clone(patcher)
        (result,) = session.sampling(lambda: [models.step(clone) for _ in range(3)])[-1:]
        torch.testing.assert_close(result, models.step(plain))
        stopping, stopped, _ = compiled_clone(patcher, stop_if_unfit=True)
        with pytest.raises(ModelUnfit, match=r"double_blocks\.0 cannot be compiled"):
            stopped.sampling(lambda: models.step(stopping))
    ((path, reason),) = [(one["path"], one["reason"]) for one in record["compile"]["regions_uncompiled"]]
    assert (path, "print" in reason) == ("double_blocks.0", True), reason
