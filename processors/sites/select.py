"""Which sites a node means: by kind and by globs over their paths."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from .find import Site
from .globs import Glob

SITE_KINDS = ("all", "self", "cross")

#: Letters of ``blocks``. What is longer nobody typed.
LONGEST_BLOCKS = 2_000


class UnknownSites(ValueError):
    """A glob that matches no site. ``glob`` and ``near`` say which, and what comes close."""

    def __init__(self, glob: str, near: list[str]):
        self.glob = glob
        self.near = near
        hint = f" Near matches: {', '.join(near)}." if near else ""
        super().__init__(
            f"blocks: {glob!r} matches no attention site of this model.{hint} Leave it empty for all sites."
        )


class BlocksTooLong(ValueError):
    """``blocks`` has ``length`` letters, more than ``LONGEST_BLOCKS``."""

    def __init__(self, length: int):
        self.length = length
        super().__init__(
            f"blocks has {length:,} letters; {LONGEST_BLOCKS:,} are the most. Say it in fewer, with * for what differs."
        )


def parse_globs(blocks: str) -> list[str]:
    """``parse_globs("double_blocks.*, single_blocks.0")`` is ``["double_blocks.*", "single_blocks.0"]``."""
    return list(dict.fromkeys(glob.strip() for glob in blocks.split(",") if glob.strip()))


def select_sites(
    sites: list[Site], kind: str = "all", blocks: str = "", check_interrupt: Callable[[], None] = lambda: None
) -> list[Site]:
    """The sites of a kind ("all", "self", "cross") that match at least one of the comma-separated globs.

    A glob means a path as a whole, or everything below it: ``middle_block`` takes ``middle_block.1.…`` too.
    ``check_interrupt`` is called again and again meanwhile, and may raise.

    Raises:
        UnknownSites: for a glob that matches no site of the model, whatever its kind.
        BlocksTooLong: for more than ``LONGEST_BLOCKS`` letters.
    """
    if len(blocks) > LONGEST_BLOCKS:
        raise BlocksTooLong(len(blocks))
    globs = parse_globs(blocks)
    paths = list(dict.fromkeys(site.path for site in sites))
    matched: set[str] = set()
    for text in globs:
        check_interrupt()
        glob = Glob(text)
        found = {path for path in paths if glob.matches(path, check_interrupt)}
        if not found:
            raise UnknownSites(text, _near(text, paths))
        matched |= found
    return [site for site in sites if (kind == "all" or site.kind == kind) and (not globs or site.path in matched)]


def _near(glob: str, paths: list[str]) -> list[str]:
    """Up to three paths, or leading parts of paths, that look like the glob."""
    prefixes = {".".join(path.split(".")[: n + 1]) for path in paths for n in range(path.count(".") + 1)}
    return get_close_matches(glob.rstrip("*."), sorted(prefixes), n=3, cutoff=0.5)
