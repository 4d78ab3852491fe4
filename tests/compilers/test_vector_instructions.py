"""Inductor's search for vector instructions ends at the first that work."""

from __future__ import annotations

import platform

import pytest
from onediff_pack.compilers.backends.inductor.vector_instructions import find_vector_instructions

isa = pytest.importorskip("torch._inductor.cpu_vec_isa")
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors have one kind of vector instructions"
)


class Kind:
    """Vector instructions that need a flag of the processor, by which they are called."""

    def __init__(self, name: str, works: bool, tried: list[str]):
        self.name, self.works, self.tried = name, works, tried

    def __str__(self) -> str:
        return self.name

    def __bool__(self) -> bool:
        self.tried.append(self.name)
        return self.works

    def bit_width(self) -> int:
        return 256


@pytest.fixture
def kinds(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)

    def set_to(**works: bool) -> list[str]:
        tried: list[str] = []
        monkeypatch.setattr(isa, "supported_vec_isa_list", [Kind(name, does, tried) for name, does in works.items()])
        monkeypatch.setattr(isa, "x86_isa_checker", lambda: [name for name in works if name != "unlisted"])
        return tried

    isa.valid_vec_isa_list.cache_clear()
    yield set_to
    isa.valid_vec_isa_list.cache_clear()


def test_the_first_that_works_is_used_and_no_other_is_tried(kinds):
    tried = kinds(unlisted=True, newest=False, newer=True, old=True)
    all_kinds = isa.supported_vec_isa_list
    find_vector_instructions()
    assert set(tried) == {"newest", "newer"}
    assert isa.pick_vec_isa().name == "newer"
    assert isa.supported_vec_isa_list is all_kinds
    del tried[:]
    find_vector_instructions()
    assert set(tried) <= {"newer"}, "it is known"


def test_without_any_inductor_goes_without(kinds):
    kinds(newer=False, old=False)
    find_vector_instructions()
    assert isa.pick_vec_isa() is isa.invalid_vec_isa


def test_who_asks_for_some_gets_them(kinds):
    from torch._inductor import config

    kinds(newer=True, old=True)
    with config.patch({"cpp.simdlen": 256}):
        find_vector_instructions()
    assert [kind.name for kind in isa.valid_vec_isa_list()] == ["newer", "old"]
