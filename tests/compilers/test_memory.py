"""What a compiled model holds: its weights once, one graph for equal blocks, and nothing more after many runs."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from onediff_pack.checks.processor import check_processor
from onediff_pack.compilers import CLEARED
from onediff_pack.compilers.measuring.model_memory import MOST_VARIANTS, ModelMemory
from onediff_pack.compilers.measuring.step_measuring import Measuring
from onediff_pack.patching.wrappers import attach
from onediff_pack.processors import find_sites, get_processor
from onediff_pack.processors.attention_patch import AttentionPatch
from onediff_pack.processors.built_in.sdpa import SDPAProcessor
from onediff_pack.processors.contract import KernelProcessor
from passthrough import without_inductor
from sessions import compiled_clone

pytest.importorskip("comfy", reason="ComfyUI is not in .cache/host; run “python3 scripts/test.py”, which brings it")
pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(scope="module")
def inductor():
    with without_inductor() as passthrough:
        yield passthrough


def sample(session, clone, steps=3, **call):
    from models import step

    return session.sampling(lambda: [step(clone, **call) for _ in range(steps)])[-1]


def tensors_alive() -> list[torch.Tensor]:
    gc.collect()
    return [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]


def test_weights_are_never_held_twice(inductor):
    """Compiled code, its cache and the session hold no copy of any weight: all that is alive is the model's own."""
    import models

    patcher = models.flux_patcher()
    own = {p.data_ptr() for p in patcher.model.parameters()}
    shapes = {p.shape for p in patcher.model.parameters() if p.ndim == 2}
    before = {t.data_ptr() for t in tensors_alive()}
    clone, session, record = compiled_clone(patcher)
    sample(session, clone, 4)
    assert record["state"] == "compiled"
    for module in patcher.model.diffusion_model.modules():
        assert all(p.data_ptr() in own for p in module.parameters(recurse=False))
    copies = [t for t in tensors_alive() if t.shape in shapes and t.data_ptr() not in own | before]
    assert copies == []


def test_checkpoints_that_take_turns_are_captured_once_and_leave_nothing(inductor):
    """Two workflows with models of their own: ComfyUI lets go of the models of one when the other runs. Of these two
    torch kept 60,000 objects of what it traced and compiled, each time anew."""
    import models
    from onediff_pack.compilers.backends import deployable
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    held = []
    for _ in range(3):
        for patcher in (models.flux_patcher(), models.unet_patcher()):
            clone, session, record = compiled_clone(patcher)
            sample(session, clone, 2)
            assert record["state"] == "compiled"
            del clone, session, record
        gc.collect()
        sizes = sum(type(item) is ShapeEnv for item in gc.get_objects())
        compiled = sum(name.startswith("__compiled_fn") for name in vars(deployable))
        held.append((inductor.graphs, sizes, compiled, len(gc.get_objects())))
    (*known, objects), (*same, more) = held[1:]
    assert same == known == list(held[0][:3]), "graphs, what is known of sizes, and compiled functions"
    assert more - objects < 25_000


def test_graphs_that_were_used_longest_ago_go(inductor, monkeypatch):
    """And their compiled code with them. Those of the last sampling stay, so that a checkpoint which takes another's
    place finds them."""
    import models
    from onediff_pack.compilers.blocks import shared_graph

    monkeypatch.setattr(shared_graph, "MOST_KEPT", 2)
    first, second = models.flux_patcher(seed=1), models.flux_patcher(seed=2)
    clones = [compiled_clone(patcher) for patcher in (first, second)]
    for clone, session, _record in clones:
        sample(session, clone)
    graphs = weakref.WeakSet(g for _, session, _ in clones for g in session.memory.graphs)
    code = [weakref.ref(graph.runner) for graph in graphs]
    assert len(graphs) == 2, "both models use the same graphs: one for double, one for single blocks"
    clone = session = _record = None
    del clones[0], first
    gc.collect()
    assert len(graphs) == 2, "the second model still uses them"
    model = weakref.ref(second.model.diffusion_model)
    del clones, second
    gc.collect()
    assert model() is None, "what is kept of the code holds no weights"
    assert len(graphs) == 2
    other_kind(inductor)
    assert len(graphs) == 0
    assert [ref() for ref in code] == [None, None]


def test_once_the_user_clears_what_was_compiled_nothing_of_it_is_kept(inductor, monkeypatch):
    import models

    patcher = models.flux_patcher()
    clone, session, _record = compiled_clone(patcher)
    sample(session, clone)
    graphs = weakref.WeakSet(session.memory.graphs)
    del clone, session, _record, patcher
    gc.collect()
    assert len(graphs) == 2
    monkeypatch.setattr(CLEARED, "marks", replace(CLEARED.marks, graphs=CLEARED.marks.graphs + 1))
    other_kind(inductor)
    assert len(graphs) == 0


def other_kind(inductor) -> None:
    """A sampling with another kind of model, which is gone afterwards."""
    import models

    patcher = models.unet_patcher()
    clone, session, _record = compiled_clone(patcher)
    sample(session, clone)
    del clone, session, _record, patcher
    gc.collect()


def test_a_checkpoint_that_takes_anothers_place_compiles_nothing_nor_does_going_back(inductor):
    import models

    before = inductor.graphs
    compiled = []
    for seed in (1, 2, 1):
        patcher = models.flux_patcher(seed=seed)
        clone, session, record = compiled_clone(patcher)
        sample(session, clone)
        assert record["state"] == "compiled"
        compiled.append(inductor.graphs - before)
        del clone, session, record, patcher
        gc.collect()
    assert compiled == [2, 2, 2]


def test_also_where_the_checkpoint_before_was_kept_uncompiled(inductor, monkeypatch):
    """By a node that ran anew, as after a change of its inputs: it has compiled nothing itself."""
    import models

    patcher = models.flux_patcher(seed=1)
    clone, session, record = compiled_clone(patcher)
    sample(session, clone)
    compiled = inductor.graphs
    with monkeypatch.context() as slow:
        slow.setattr(Measuring, "is_slow", True)
        clone, session, record = compiled_clone(patcher)
        sample(session, clone)
        assert record["state"] == "uncompiled"
    del clone, session, record, patcher
    gc.collect()
    other = models.flux_patcher(seed=2)
    clone, session, record = compiled_clone(other)
    sample(session, clone)
    assert (record["state"], inductor.graphs) == ("compiled", compiled)


class OfAPerson(KernelProcessor):
    """Not a kernel of this pack: it may hold anything."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = SDPAProcessor()

    def forward(
        self, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, scale=None, enable_gqa=False
    ):
        return self.attention(q, k, v, heads, mask, skip_reshape, skip_output_reshape, scale, enable_gqa)


def test_a_processor_that_a_person_wrote_goes_when_no_node_holds_it(inductor):
    import models

    patcher = models.flux_patcher()
    clone, session, _record = compiled_clone(patcher)
    processor = OfAPerson()
    gone = weakref.ref(processor)
    patched = clone.clone()
    attach(patched, AttentionPatch(find_sites(patcher.model.diffusion_model), processor, lambda options: None))
    sample(session, patched)
    del processor, patched, session, clone, _record, patcher
    other_kind(inductor)
    assert gone() is None


def test_what_is_checked_and_captured_anew_each_time_leaves_next_to_nothing(inductor):
    """As where the node of a processor that a person wrote runs anew. Dynamo hangs all that its guards hold on modules
    and classes that never go: some thousand objects a time, of each of a model's blocks and of each check. And torch
    keeps the Python that it writes of each graph."""
    import models
    from torch.fx.graph_module import _loader

    held, sources = [], set(_loader.eval_cache)
    for _ in range(4):
        patcher = models.flux_patcher()
        clone, session, record = compiled_clone(patcher)
        patched = clone.clone()
        sites = find_sites(patcher.model.diffusion_model)
        assert check_processor(OfAPerson(), sites[0]) == ()
        attach(patched, AttentionPatch(sites, OfAPerson(), lambda options: None))
        sample(session, patched)
        assert (record["state"], record["compile"]["graphs"]) == ("compiled", 2)
        del patcher, patched, clone, session, record, sites
        gc.collect()
        held.append(len(gc.get_objects()))
    assert held[-1] - held[1] < 2 * 1_500
    assert set(_loader.eval_cache) == sources


def test_twenty_varied_runs_leave_nothing_behind(inductor):
    """Sizes, prompts, batches, a patch and its removal, over and over: neither tensors nor their memory grow."""
    import models

    patcher = models.unet_patcher()
    clone, session, _record = compiled_clone(patcher)
    patched = clone.clone()
    patched.set_model_attn1_output_patch(lambda out, extra_options: out * 0.5)
    runs = [
        (clone, {}),
        (clone, {"size": 24}),
        (clone, {"tokens": 60}),
        (clone, {"batch": 4}),
        (patched, {}),
    ]

    def all_runs():
        for model, call in runs:
            sample(session, model, **call)

    all_runs()
    all_runs()
    before = tensors_alive()
    count, held = len(before), sum(t.untyped_storage().nbytes() for t in before)
    objects = len(gc.get_objects())
    del before
    for _ in range(4):
        all_runs()
    after = tensors_alive()
    assert len(after) <= 1.01 * count
    assert sum(t.untyped_storage().nbytes() for t in after) <= 1.01 * held
    del after
    gc.collect()
    assert len(gc.get_objects()) <= 1.01 * objects


def test_code_compiled_with_old_versions_of_an_edited_processor_goes(inductor, monkeypatch):
    """Also while the model stays loaded."""
    import models
    from onediff_pack.compilers.blocks import shared_graph
    from onediff_pack.compilers.measuring import model_memory as memory

    monkeypatch.setattr(memory, "MOST_VARIANTS", 2)
    monkeypatch.setattr(shared_graph, "MOST_KEPT", 2)
    patcher = models.flux_patcher()
    graphs: weakref.WeakSet = weakref.WeakSet()
    for _edit in range(3):
        edited = type("Edited", (type(get_processor("sdpa")),), {"forward": another_forward()})
        clone, session, record = compiled_clone(patcher)
        patch = AttentionPatch(find_sites(patcher.model.diffusion_model), edited(), lambda options: None)
        attach(clone, patch)
        sample(session, clone)
        assert record["state"] == "compiled"
        graphs.update(session.memory.graphs)
        del edited, patch, clone, session, record
    gc.collect()
    assert len(graphs) == 4, "of each of the last two versions, one for double and one for single blocks"


def another_forward():
    """A function of its own each time, as from a file that was read anew."""

    def forward(self, *args, **kwargs):
        return type(get_processor("sdpa")).forward(self, *args, **kwargs)

    return forward


def test_variants_used_last_are_kept():
    memory = ModelMemory()
    first = memory.variant("first")
    for edit in range(2 * MOST_VARIANTS):
        assert memory.variant(edit) is not first
        assert memory.variant("first") is first
    assert memory.variant(2 * MOST_VARIANTS - 1) is memory.variant(2 * MOST_VARIANTS - 1)
