"""Which sites a node means: by kind and by globs over their paths."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase

from .sites import Site

SITE_KINDS = ("all", "self", "cross")


class UnknownSites(ValueError):
    """A glob that matches no site. ``glob`` and ``near`` say which, and what comes close."""

    def __init__(self, glob: str, near: list[str]):
        self.glob = glob
        self.near = near
        hint = f" Near matches: {', '.join(near)}." if near else ""
        super().__init__(
            f"blocks: {glob!r} matches no attention site of this model.{hint} Leave it empty for all sites."
        )


def parse_globs(blocks: str) -> list[str]:
    """``parse_globs("double_blocks.*, single_blocks.0")`` is ``["double_blocks.*", "single_blocks.0"]``."""
    return [glob.strip() for glob in blocks.split(",") if glob.strip()]


def _matches(path: str, glob: str) -> bool:
    """A glob means a path as a whole, or everything below it: ``middle_block`` takes ``middle_block.1.…`` too."""
    return fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}.*")


def select_sites(sites: list[Site], kind: str = "all", blocks: str = "") -> list[Site]:
    """The sites of a kind ("all", "self", "cross") that match at least one of the comma-separated globs.

    Raises:
        UnknownSites: for a glob that matches no site of the model, whatever its kind.
    """
    globs = parse_globs(blocks)
    paths = [site.path for site in sites]
    for glob in globs:
        if not any(_matches(path, glob) for path in paths):
            raise UnknownSites(glob, _near(glob, paths))
    return [
        site
        for site in sites
        if (kind == "all" or site.kind == kind) and (not globs or any(_matches(site.path, glob) for glob in globs))
    ]


def _near(glob: str, paths: list[str]) -> list[str]:
    """Up to three paths, or leading parts of paths, that look like the glob."""
    prefixes = {".".join(path.split(".")[: n + 1]) for path in paths for n in range(path.count(".") + 1)}
    return get_close_matches(glob.rstrip("*."), sorted(prefixes), n=3, cutoff=0.5)
