"""The corpus: processors as people write them. What the check says of each, what its remedy gives, and its picture."""

from __future__ import annotations

import functools
import importlib.util
import io
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
import torch
from corpus import by_hand, pictures, running
from corpus.expected import ALIKE, EVERYDAY, PUBLIC
from corpus.running import BY_NAME, MODELS, Source

FOUND = [name for name, entry in BY_NAME.items() if entry.verdict != "fine"]

xformers_is_here = importlib.util.find_spec("xformers") is not None
NAMES = [name for name in BY_NAME if not (name == "needs_xformers:XFormersOnly" and xformers_is_here)]
STATES = [(name, state) for name in NAMES for state in ("written", *(["mended"] if name in FOUND else []))]

on_the_host = pytest.mark.usefixtures("host")


def ordinary(names, long=ALIKE):
    """Names, or names with their states, for tests on the host; those in ``long`` with ``scripts/test.py --all``."""
    parts = [(name,) if isinstance(name, str) else name for name in names]
    return [pytest.param(*part, marks=[pytest.mark.long] if part[0] in long else []) for part in parts]


# The table, for itself.


def test_the_corpus_is_large_and_its_classes_are_small():
    assert len(BY_NAME) == len(PUBLIC) + len(EVERYDAY) >= 30
    for entry in BY_NAME.values():
        sources = [Source(entry)] + ([Source(entry, "mended")] if entry.verdict != "fine" else [])
        assert all(len(source.lines) < 40 for source in sources), entry.cls


def test_one_that_is_left_to_another_differs_in_nothing_that_the_check_says():
    for name, other in ALIKE.items():
        left, there = BY_NAME[name], BY_NAME[other]
        assert other not in ALIKE
        assert (left.verdict, left.uncompiled, left.served) == (there.verdict, there.uncompiled, there.served), name


@pytest.mark.parametrize("name", FOUND)
def test_what_is_wrong_has_a_line_and_a_remedy(name):
    entry = BY_NAME[name]
    assert entry.line in Source(entry).text
    assert entry.remedy
    assert Source(entry, "mended").text != Source(entry).text


def assert_equal(name: str, results, expected) -> None:
    assert results
    for number, (result, formula) in enumerate(zip(results, expected, strict=True)):
        said = functools.partial("call {}: {}".format, number)
        torch.testing.assert_close(result, formula, atol=BY_NAME[name].within, rtol=1e-3, msg=said)


def formula(name: str, state: str) -> pictures.Picture:
    return BY_NAME[name].mended or BY_NAME[name].picture if state == "mended" else BY_NAME[name].picture


@pytest.mark.parametrize(("name", "state"), STATES)
def test_called_by_hand_it_computes_its_formula_or_fails_where_it_is_refused(name, state):
    """Of the table, without the pack's check: what runs is no error, what is an error does not run."""
    source = Source(BY_NAME[name], state)
    if "torch.compiler.disable" in source.text and "torch._dynamo" not in sys.modules:
        pytest.skip("it imports Dynamo, which takes longer than all the rest")
    calls = list(by_hand.calls(masked=False))
    if state == "written" and BY_NAME[name].verdict == "error":
        with pytest.raises((RuntimeError, TypeError, ValueError, NameError, ImportError, AttributeError)):
            by_hand.results(source, calls)
        return
    with redirect_stdout(io.StringIO()):
        assert_equal(name, by_hand.results(source, calls), formula(name, state)(calls))
        if not any(map(BY_NAME[name].served, masked := list(by_hand.calls(masked=True)))) or state == "mended":
            assert_equal(name, by_hand.results(source, masked), formula(name, state)(masked))


# On the real host.


@functools.cache
def model(kind: str = "sd15"):
    return MODELS[kind]()


@functools.cache
def patched(name: str, state: str = "written", kind: str = "sd15"):
    """A clone with the processor on it, and the verdict with its findings."""
    clone, record = running.patch(model(kind), name, state)
    return (clone, *running.worst(record))


@pytest.fixture(scope="module", autouse=True)
def _let_go():
    yield
    patched.cache_clear()
    model.cache_clear()


@on_the_host
@pytest.mark.parametrize("name", ordinary(NAMES))
def test_the_verdict_is_a_maintainers(name):
    entry = BY_NAME[name]
    for kind, verdict in {"sd15": entry.verdict, **entry.on}.items():
        _, said, findings = patched(name, kind=kind)
        assert said == verdict, (kind, findings)


@on_the_host
@pytest.mark.parametrize("name", ordinary(name for name in NAMES if name in FOUND))
def test_the_finding_names_the_line_and_the_remedy(name):
    entry = BY_NAME[name]
    _, _, findings = patched(name)
    where = f"{entry.file}.py:{Source(entry).line}"
    there = [finding for finding in findings if finding["where"].endswith(where)]
    assert there, (where, findings)
    lacking = {
        (finding["what"], finding["why"], finding["fix"]): [
            *(word for word in entry.says if word not in f"{finding['what']}. {finding['why']}"),
            *(word for word in entry.remedy if word not in finding["fix"]),
        ]
        for finding in there
    }
    assert [] in lacking.values(), lacking
    assert all(finding["class"] == entry.cls for finding in there)


@on_the_host
@pytest.mark.parametrize("name", ordinary(name for name in NAMES if name in FOUND))
def test_after_the_remedy_there_is_nothing_to_find(name):
    _, said, findings = patched(name, "mended")
    assert said == "fine", findings


def assert_pictures(name: str, state: str, calls, served=lambda call: False) -> None:
    """Of every site. sdpa takes the place of what is refused, and of calls that are served."""
    picture = pictures.sdpa if state == "written" and BY_NAME[name].verdict == "error" else formula(name, state)
    given = [call for call, _ in calls]
    expected = [
        pictures.attention(call) if served(call) else own for call, own in zip(given, picture(given), strict=True)
    ]
    assert_equal(name, [result for _, result in calls], expected)


@on_the_host
@pytest.mark.parametrize(("name", "state"), ordinary(STATES))
def test_it_computes_its_formula_at_every_site_and_the_same_in_the_next_sampling(name, state):
    clone, *_ = patched(name, state)
    latents = []
    with redirect_stdout(io.StringIO()):
        for size, cfg in (((8, 8), 4.0), ((6, 8), 1.0), ((8, 8), 4.0)):
            with running.recorded(clone) as calls:
                latents.append(running.sample(clone, size=size, cfg=cfg))
            assert_pictures(name, state, calls)
    assert torch.equal(latents[0], latents[2])


def boolean(shape):
    """(queries, keys); the first key takes part."""
    allowed = torch.rand(shape[2:], generator=torch.Generator().manual_seed(1)) > 0.3
    allowed[:, 0] = True
    return allowed


def additive(shape):
    """(batch, queries, keys)"""
    return torch.randn(shape[0], *shape[2:], generator=torch.Generator().manual_seed(2))


@on_the_host
@pytest.mark.parametrize(("name", "state"), ordinary(STATES))
@pytest.mark.parametrize("mask", [boolean, additive])
def test_masks_are_used_or_sdpa_uses_them(name, state, mask):
    clone, *_ = patched(name, state)
    with redirect_stdout(io.StringIO()), running.recorded(clone, mask) as calls:
        running.sample(clone, steps=1)
    assert_pictures(name, state, calls, BY_NAME[name].served if state == "written" else lambda call: False)


@on_the_host
def test_the_other_half_of_a_remedy_mends_too():
    """TokenMerging does not use masks in self-attention: “take it out of forward”."""
    clone, record = running.patch(model(), "merging:TokenMergingUnmasked", "mended")
    _, findings = running.worst(record)
    assert {finding["rule"] for finding in findings} == {"drops-mask"}, "it says what becomes of such calls"
    for mask, picture in ((None, pictures.merged), (boolean, pictures.sdpa), (additive, pictures.sdpa)):
        with running.recorded(clone, mask) as calls:
            running.sample(clone, steps=1)
        assert_equal("merging:TokenMerging", [result for _, result in calls], picture([call for call, _ in calls]))


@on_the_host
def test_what_goes_by_the_noise_level_is_compiled_once_for_all_steps():
    """Which is the remedy for a counter."""
    from passthrough import without_inductor
    from sessions import compiled_clone

    plain, *_ = patched("regions:TimeGate", "mended")
    with without_inductor() as compiler:
        clone, session, record = compiled_clone(plain, backend="inductor")
        torch.testing.assert_close(running.sample(clone, steps=4), running.sample(plain, steps=4))
        graphs = compiler.graphs
        torch.testing.assert_close(running.sample(clone, steps=3), running.sample(plain, steps=3))
        session.publish()
    assert record["compile"]["regions_uncompiled"] == [] and compiler.runs
    assert record["compile"]["recompiles"] == [] and compiler.graphs == graphs


@on_the_host
def test_a_block_that_was_compiled_without_is_given_the_noise_level_too():
    """Flux's blocks are sites themselves, and read no noise level of their own."""
    import models
    from passthrough import without_inductor
    from sessions import compiled_clone

    plain = model("flux")
    patched_, *_ = patched("kernels:FadingKernel", "mended", "flux")
    with without_inductor():
        for _ in range(2):
            for patcher in (plain, patched_):
                clone, session, record = compiled_clone(patcher, backend="inductor")
                for sigma in (1.0, 1.0, 0.9, 0.1):
                    options: dict[str, Any] = {"sigmas": torch.full((2,), sigma * 15), "sample_sigmas": [sigma]}
                    result, expected = models.step(clone, **options), models.step(patcher, **options)
                    torch.testing.assert_close(result, expected)
                session.publish()
                assert record["compile"]["regions_uncompiled"] == []
    loud, calm = (models.step(patched_, sigmas=torch.full((2,), sigma)) for sigma in (15.0, 0.1))
    assert not torch.allclose(loud, calm)


#: No graph can hold them, and nothing hangs on how often they are called. The first two are one of each level.
APART = ["hazards:BranchesOnValue", "kernels:LoudKernel", "hazards:Prints", "hazards:BranchesOnItem"]


@on_the_host
@pytest.mark.parametrize("name", ordinary(APART, long=APART[2:]))
def test_a_block_is_compiled_around_what_no_graph_can_hold(name):
    from passthrough import without_inductor
    from sessions import compiled_clone

    plain, *_ = patched(name)
    with redirect_stdout(io.StringIO()), without_inductor() as compiler:
        clone, session, record = compiled_clone(plain, backend="inductor")
        for _ in range(2):
            torch.testing.assert_close(running.sample(clone, steps=4), running.sample(plain, steps=4))
            graphs = compiler.graphs
        session.publish()
    assert record["compile"]["regions_uncompiled"] == []
    assert record["compile"]["graph_breaks"] == []
    assert 0 < compiler.graphs == graphs
    assert any(found["rule"] not in ("", None) for found in record["check"]["findings"]), "the hazard is still said"


#: With a hazard, and some without.
COMPILED = [name for name in NAMES if BY_NAME[name].uncompiled is not False or name in NAMES[::8]]

#: Held elsewhere in the ordinary run: apart from their blocks (above), a state of their own (``CountsCalls``), and the
#: picture of those that are fine.
COMPILED_ALIKE = {
    *(*ALIKE, *APART),
    *("consistent:ConsistentSelfAttention", "reference:ReferenceWriter"),
    *("faces:FaceAdapter", "guidance:FreeUScaling", "dtypes:DistanceBias", "adapters:NamedLoRA"),  # without a hazard
}


@on_the_host
@pytest.mark.parametrize("name", ordinary(COMPILED, long=COMPILED_ALIKE))
def test_what_no_graph_can_hold_runs_uncompiled_and_the_picture_is_the_same(name):
    from onediff_pack.processors import find_sites
    from sessions import FakeBackend, compiled_clone, known, using

    entry = BY_NAME[name]
    plain, *_ = patched(name)
    with redirect_stdout(io.StringIO()), using(known(FakeBackend())):
        clone, session, record = compiled_clone(plain)
        for _ in range(2):
            torch.testing.assert_close(running.sample(clone, steps=4), running.sample(plain, steps=4))
        session.publish()
    uncompiled = [region["path"] for region in record["compile"]["regions_uncompiled"]]
    left = [
        site.path
        for site in find_sites(plain.model.diffusion_model)
        if any(site.path.startswith(f"{path}.") for path in uncompiled)
    ]
    if entry.uncompiled is not None:
        assert bool(left) == (entry.uncompiled and entry.verdict != "error"), record["compile"]["regions_uncompiled"]
