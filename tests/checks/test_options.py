"""What is said about the compile node's settings before anything is compiled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from onediff_pack.checks import rules
from onediff_pack.checks.options import Asked, check_options, weight_bytes
from torch import nn

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
MB = 2**20

FINE = Asked(
    path="",
    module=nn.Linear(4, 4),
    backend="auto",
    scope="blocks",
    effort="max speed",
    device=CUDA,
    dtype=torch.bfloat16,
    regions=12,
    weight_dtypes={torch.bfloat16: 100 * MB},
    capability=(8, 9),
    multiprocessors=128,
)

#: Facts that differ from FINE; name and severity of the finding; words of what, why and fix.
CASES = [
    (
        {"backend": "nexfort", "compiles_for": ("cuda",), "device": CPU},
        "backend-not-for-device",
        "warning",
        "nexfort does not compile for cpu",
    ),
    (
        {"backend": "inductor", "compiles_for": ("cuda", "cpu"), "device": torch.device("privateuseone")},
        "backend-not-for-device",
        "warning",
        "inductor does not compile for privateuseone",
    ),
    (
        {"capability": (6, 1), "dtype": torch.float16},
        "gpu-too-old-for-triton",
        "error",
        "compute capability 6.1, it needs 7.0",
    ),
    ({"capability": (7, 5)}, "bfloat16-on-old-gpu", "error", "compute capability 7.5, it needs 8.0"),
    (
        {"capability": (8, 6), "weight_dtypes": {torch.float8_e4m3fn: 90 * MB}},
        "float8-on-old-gpu",
        "error",
        "the weights are float8_e4m3fn, which this GPU does not have: compute capability 8.6, it needs 8.9",
    ),
    ({"multiprocessors": 46}, "max-speed-on-small-gpu", "note", "46 multiprocessors, the compiler wants 68"),
    (
        {"casts_weights": True, "weight_dtypes": {torch.float16: 90 * MB, torch.bfloat16: MB}},
        "weights-are-cast",
        "note",
        "90 MB of weights are float16 and computed in bfloat16",
    ),
    ({"offloaded_bytes": 30 * MB}, "weights-do-not-fit", "warning", "about 30 MB of 100 MB of weights do not fit"),
    ({"moves_weights": True}, "weights-move-layer-by-layer", "note", "dynamic VRAM"),
    ({"regions": 0}, "nothing-in-scope", "error", "scope “blocks” finds nothing to compile in Linear"),
]


@pytest.mark.parametrize(("facts", "name", "severity", "words"), CASES)
def test_each_rule_says_what_is_wrong_and_what_to_do(facts, name, severity, words):
    (finding,) = check_options(replace(FINE, **facts))
    assert (finding.rule, finding.severity) == (name, severity)
    assert words in finding.what
    assert not finding.what.endswith(".")
    for sentence in (finding.why, finding.fix):
        assert sentence.endswith(".")
        assert "{" not in sentence
    assert (finding.cls, finding.where) == ("OneDiffCompile", "input")


def test_every_rule_has_a_case():
    assert {rule.name for rule in rules("options")} == {name for _, name, *_ in CASES}


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"device": CPU, "capability": None, "multiprocessors": None, "effort": "max speed"},
        {"backend": "oneflow", "triton": False, "capability": (7, 5)},  # has kernels of its own
        {"capability": (8, 0), "weight_dtypes": {torch.float8_e5m2: MB}},  # Triton converts these everywhere
        {"capability": None, "multiprocessors": None},  # an AMD GPU
        {"multiprocessors": 20, "effort": "fast start"},
        {"casts_weights": True},  # a few tables aside, all weights are what is computed in
        {"backend": "a newer one"},  # another finding says that it is not known
        {"scope": "attention"},
    ],
)
def test_nothing_is_said_about_what_works(facts):
    assert check_options(replace(FINE, **facts)) == ()


def test_scope_attention_without_attention_modules_names_the_scope_that_works():
    (finding,) = check_options(replace(FINE, scope="attention", regions=0))
    assert "to_q, to_k, to_v and to_out" in finding.why
    assert "Set scope to “blocks”" in finding.fix


def test_weights_are_counted_by_dtype():
    module = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False).half())
    assert weight_bytes(module) == {torch.float32: 4 * 8 * 4, torch.float16: 4 * 8 * 2}
