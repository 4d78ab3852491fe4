"""The template that people copy: it is what the help page shows, it is right, and it fits into one graph."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from onediff_pack.checks import check_processor
from onediff_pack.processors import Site
from onediff_pack.processors.attention_patch import site_forward
from onediff_pack.processors.sources.custom import PRIVATE, CustomProcessors
from torch import nn

pytestmark = pytest.mark.usefixtures("host")

ROOT = Path(__file__).parents[2]
NAMES = [f"custom/my_attention:{name}" for name in ("MyAttention", "MyModuleAttention", "MyStandIn")]


@pytest.fixture
def custom():
    yield CustomProcessors(lambda: [ROOT / "docs"])
    for name in [name for name in sys.modules if name.startswith(PRIVATE)]:
        del sys.modules[name]


def site(kind: Any) -> Site:
    from comfy.ldm.modules.attention import CrossAttention

    torch.manual_seed(0)
    module = CrossAttention(32, 48 if kind == "cross" else None, heads=4, dim_head=8, operations=nn)
    return Site("blocks.0.attn", module.eval().requires_grad_(False), kind, True)


def test_the_help_page_shows_it_and_names_its_classes(custom):
    page = (ROOT / "web" / "docs" / "OneDiffPatchAttention.md").read_text()
    assert f"```python\n{(ROOT / 'docs' / 'my_attention.py').read_text()}```" in page
    assert custom.names() == NAMES
    for name in NAMES:
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["self", "cross"])
def test_nothing_is_found_and_it_computes_attention_in_one_graph(custom, name, kind):
    place = site(kind)
    processor = custom.load(name, site=place)
    assert [str(finding) for finding in check_processor(processor, place)] == []
    torch._dynamo.reset()  # all cases share the code of the forward, and Dynamo's limit on it
    forward = torch.compile(site_forward(place, processor), backend="eager", fullgraph=True)
    x = torch.randn(2, 16, 32)
    context = torch.randn(2, 7, 48) if kind == "cross" else None
    keys = 16 if context is None else 7
    for mask in (None, torch.rand(16, keys) > 0.3, torch.randn(2, 16, keys), torch.randn(2, 1, 16, keys)):
        expected = type(place.module).forward(place.module, x, context, mask=mask)
        torch.testing.assert_close(forward(x, context, mask=mask), expected)
