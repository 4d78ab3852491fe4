"""A backend that nobody here knows goes through OneDiff's registry like the others, without Dynamo or Inductor."""

from __future__ import annotations

import pytest
import torch
from onediff.infer_compiler.backends import registry
from onediff.infer_compiler.backends.deployable_module import DeployableModule
from onediff_pack.compilers import BACKENDS, Host, Session, Settings
from onediff_pack.compilers.backends.through_onediff import compile_through_onediff
from onediff_pack.compilers.choice import prove as backends
from onediff_pack.patching.wrappers import attach
from onediff_pack.status import Record

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


class EagerBackend:
    name, package, packages, native = "eager", "torch", (), False
    explained = 0

    def absent(self, device):
        return None

    def emulates_casts(self, device):
        return False

    def load(self):
        pass

    def start_up(self, device):
        pass

    def about(self, effort, device):
        return None

    def compile(self, block, graph, effort):
        return compile_through_onediff(block, self.name, {"graph": graph})

    def explain(self, error):
        self.explained += 1
        return f"eager says: {error}", None


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
    monkeypatch.setattr(backends, "BACKENDS", {"eager": EagerBackend(), **BACKENDS})
    monkeypatch.setattr(backends, "_proofs", {("eager", "cpu"): backends.Proof(True, "runs.", 0.0)})
    monkeypatch.setattr(torch, "compile", unreachable)
    monkeypatch.setattr(torch._dynamo, "optimize", unreachable)
    return modules


@pytest.mark.parametrize("model", ["unet", "flux"])
def test_a_backend_of_its_own(model, asked):
    import models

    patcher = getattr(models, f"{model}_patcher")()
    clone, record = patcher.clone(), Record("workflow", "7")
    host = Host(lambda: None, "test")
    session = Session(Settings("eager", keep_faster=False), record, host, torch.device("cpu"))
    attach(clone, session)
    results = session.sampling(lambda: [models.step(clone) for _ in range(4)])
    for result in results:
        torch.testing.assert_close(result, models.step(patcher))
    assert (record["state"], record["backend"]["used"]) == ("compiled", "eager")
    assert len(asked) == len(session.runners) == record["compile"]["regions_compiled"]
    kinds = {runner.region.signature for runner in session.runners}
    graphs = {graph for runner in session.runners for graph in runner.graphs.values()}
    assert record["compile"]["graphs"] == len(kinds) == len(graphs)
    assert sum(graph.runs for graph in graphs) >= 2 * len(session.runners)


def test_its_failures_are_in_its_own_words(asked, monkeypatch):
    import models

    monkeypatch.setattr(Eager, "forward", lambda self, *args, **kwargs: {}["no such operator"])
    patcher = models.flux_patcher()
    clone, record = patcher.clone(), Record("workflow", "7")
    host = Host(lambda: None, "test")
    session = Session(Settings("eager", keep_faster=False), record, host, torch.device("cpu"))
    attach(clone, session)
    (result,) = session.sampling(lambda: [models.step(clone) for _ in range(3)])[-1:]
    torch.testing.assert_close(result, models.step(patcher))
    assert record["state"] == "uncompiled"
    assert {r["reason"] for r in record["compile"]["regions_uncompiled"]} == {"eager says: 'no such operator'"}
