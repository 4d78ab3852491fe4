"""The processors that a node offers, and the one that a workflow names."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import comfy.ldm.modules.attention as attention
import folder_paths
import torch
from torch import nn

from ..checks import Finding
from ..checks.attached import check_attached
from ..checks.source import short_path
from ..patching.ending.stopping import Overdue
from ..patching.user_code import Attendance
from ..patching.user_errors import error_words, files_of, is_harmless, lines_in
from ..processors import DEFAULT_PROCESSOR, Processor, Site, get_processor, processor_names, written
from ..processors.attention_patch import not_patchable_reason
from ..processors.authored.instances import at_site
from ..processors.authored.make import CannotLoad
from ..processors.choosing.auto_patch import AUTO
from ..processors.choosing.candidates import to_prove
from ..processors.kernels.hosts import hosts_kernel, hosts_names
from ..processors.kernels.kernel import Kernel
from ..processors.kernels.proofs import KERNEL_PROOFS
from ..processors.loaded.unusable import Unusable
from ..processors.sources import custom as user
from ..processors.sources import diffusers_classes as diffusers
from ..processors.sources.user_files import USER_FOLDER
from .example_inputs import find_reach
from .known_values import unknown_value
from .prompt_ends import CANCEL

log = logging.getLogger(__name__)

#: Files that a record names because they cannot be listed.
MOST_NOT_LISTED = 5

#: What ComfyUI acts on by its class: it frees memory then.
_HOSTS = (torch.OutOfMemoryError, MemoryError)

#: ComfyUI's attention functions by name; other packs may add to them at any time.
REGISTERED = getattr(attention, "REGISTERED_ATTENTION_FUNCTIONS", {})

CUSTOM = user.CustomProcessors(lambda: folder_paths.get_folder_paths(USER_FOLDER))


def register_folder() -> None:
    """Makes ``models/attention_processors`` one of ComfyUI's model folders. It stays empty: what is in there is the
    user's."""
    folder = os.path.join(folder_paths.models_dir, USER_FOLDER)
    folder_paths.add_model_folder_path(USER_FOLDER, folder, is_default=True)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        log.info("OneDiff: models/%s cannot be made (%s); processors of your own need it.", USER_FOLDER, error.strerror)


def is_users(file: str) -> bool:
    """Whether a file of Python code is one of the user's own."""
    return file.startswith(tuple(os.path.join(folder, "") for folder in folder_paths.get_folder_paths(USER_FOLDER)))


def choices() -> list[str]:
    """All names: `AUTO`, built-in ones, the host's, the user's own, diffusers'. Asked anew for each list of nodes, so
    it runs no code."""
    asked = CUSTOM.start_listing()  # both at once: together they take no longer than one
    theirs = diffusers.listed()
    return [AUTO, *processor_names(), *hosts_names(REGISTERED), *CUSTOM.names(asked), *theirs]


def fingerprint(name: Any) -> str:
    """Changes when the file that a name comes from changes."""
    return CUSTOM.fingerprint(name) if isinstance(name, str) else ""


def not_listed(said: set[str]) -> list[Finding]:
    """Files and folders whose processors the list lacks, and why; without those that were ``said`` already."""
    problems = [one for one in (*CUSTOM.unlisted(), *diffusers.unlisted()) if one.shown not in said]
    notes = [
        Finding("note", "processor", "", one.shown, "cannot be listed", one.why, one.fix, "processor-not-listed")
        for one in problems[:MOST_NOT_LISTED]
    ]
    more = len(problems) - len(notes)
    if more:
        what = f"{more:,} more files cannot be listed"
        notes.append(
            Finding(
                "note", "processor", "", f"models/{USER_FOLDER}", what, "See those above.", "Fix those above first."
            )
        )
    return notes


class Chosen(NamedTuple):
    """A processor with its name. Where it is another one than was asked for, ``rejected`` is that one's ``processor``
    (its name), ``class``, and ``what`` is wrong with it, and ``where``."""

    name: str
    processor: Processor
    rejected: dict[str, str] | None = None


def choose(
    node: str,
    name: str,
    sites: Sequence[Site],
    model: Any,
    findings: list[Finding],
    load: Callable[[], nn.Module] | None = None,
) -> Chosen:
    """The processor of that name; the default one, and findings that say why, when it cannot be used. ``load`` gives
    one that was made otherwise."""
    if name == AUTO:
        return Chosen(name, get_processor(DEFAULT_PROCESSOR))
    if name in processor_names():
        return _built_in(name, model, findings)
    hosts = hosts_kernel(name, REGISTERED)
    if hosts is not None:
        return Chosen(name, hosts)
    if not name.startswith((user.PREFIX, diffusers.PREFIX)):
        findings.append(unknown_value(node, "processor", name, choices(), DEFAULT_PROCESSOR))
        return _instead_of(name, "this version has no such processor", "")
    reason = None
    try:
        module = load() if load is not None else _load(name, model, sites)
        found = _check(module, sites, model)
        findings += found
        reason = _unusable(found)
        if issubclass(type(module), Processor) and reason is None:
            return Chosen(name, cast(Processor, module))
    except CannotLoad as error:
        findings.append(_finding(error))
        return _instead_of(name, error.what, error.where, error.fix)
    except (CANCEL.error, Overdue, Unusable):
        raise
    except BaseException as error:  # a person's code ends neither the prompt nor the thread that runs it
        words = error_words(error)
        fix = "Remove from its file what raises when the class is inspected."
        findings.append(_finding(CannotLoad(name, "input", "cannot be inspected", f"It raises {words}.", fix)))
        return _instead_of(name, "cannot be inspected", "", fix)
    findings.append(_not_used(name, reason))
    what, where, fix = (
        (reason.what, reason.where, reason.fix) if reason else ("cannot be called as a processor", "", "")
    )
    return _instead_of(name, what, where, fix)


def _built_in(name: str, model: Any, findings: list[Finding]) -> Chosen:
    """A processor of the pack; the default one where its package is missing, or does not work."""
    processor = get_processor(name)
    fits = not processor.limits.not_supported_reasons(model.load_device, model.model.get_dtype_inference(), None)
    if not isinstance(processor, Kernel) or processor.package is None or (processor.absent() is None and not fits):
        return Chosen(name, processor)
    proof = Attendance(CANCEL, math.inf).watched(lambda: KERNEL_PROOFS.prove(name, model.load_device))
    if proof.available:
        return Chosen(name, processor)
    absent = processor.absent()
    again = "close what else uses the device and run it again" if proof.passing else "reinstall its package"
    what, fix = (absent.why, absent.fix or "") if absent else (proof.reason, again)
    findings.append(
        Finding(
            severity="warning",
            path="processor",
            cls=class_of(name),
            where="input",
            what=f"{name} is not used; {DEFAULT_PROCESSOR} is, so that the picture is finished",
            why=f"{what[:1].upper()}{what[1:].rstrip('.')}.",
            fix=f"{fix[:1].upper()}{fix[1:]}.",
            rule="processor-not-used",
        )
    )
    return _instead_of(name, what, "", f"{fix[:1].upper()}{fix[1:]}.")


def not_made(name: str, processor: Processor, error: BaseException, findings: list[Finding]) -> Chosen:
    """The default one, where a class cannot be made at all the places at which it is wanted."""
    lines = lines_in(error, files_of(written(processor)))
    where = f"{short_path(lines[-1][0])}:{lines[-1][1]}" if lines else "input"
    fix = "Correct what __init__ does with the values of a place."
    findings.append(_finding(CannotLoad(name, where, "cannot be made", f"It raises {error_words(error)}.", fix)))
    return _instead_of(name, "cannot be made", where, fix)


def prove_ahead(processor: Any, quality: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Begins to prove what ``auto`` may take, in the background: a child process for each that is new."""
    if type(processor) is str and processor == AUTO:
        names = to_prove(device, dtype, "fast" if quality == "fast" else "exact")
        KERNEL_PROOFS.prove_ahead(names, device)


def _instead_of(name: str, what: str, where: str, fix: str = "") -> Chosen:
    """The default processor."""
    file = where.rpartition("/")[2] if ":" in where else ""
    rejected = {"processor": name, "class": class_of(name), "what": what, "where": file, "fix": fix}
    return Chosen(DEFAULT_PROCESSOR, get_processor(DEFAULT_PROCESSOR), rejected)


def class_of(name: str) -> str:
    """``SoftCap`` of ``custom/softcap:SoftCap``."""
    return name.rpartition(":")[2].rpartition("/")[2]


def _load(name: str, model: Any, sites: Sequence[Site]) -> nn.Module:
    if name.startswith(diffusers.PREFIX):
        return diffusers.load(name, CANCEL)
    site = next((site for site in sites if site.has_projections), sites[0] if sites else None)
    return CUSTOM.load(name, model.load_device, model.model.get_dtype_inference(), CANCEL, site=site)


def _check(module: nn.Module, sites: Sequence[Site], model: Any) -> list[Finding]:
    """What is wrong with a processor, seen at the first site of each kind where it fits. Forward Check and OneDiff
    Compile look at all sites."""
    first: dict[str, Site] = {}
    for site in sites:
        if not issubclass(type(module), Processor) or not_patchable_reason(site, cast(Processor, module)) is None:
            first.setdefault(site.kind, site)
    places = [(site, at_site(module, site, CANCEL)) for site in first.values()]
    return check_attached(places, model.model.get_dtype_inference(), model.load_device, CANCEL, find_reach(model))


def processor_error(node: str, name: str, processor: Processor, error: BaseException) -> BaseException:
    """What is raised in the middle of a sampling for what a processor raised: an error with its node, class, file and
    line. What a person wrote is not passed on as it is: ``KeyError: 'x'`` says little, StopIteration becomes another
    error in ComfyUI's coroutines, and with SystemExit, or one that raises when it is shown, its thread would end and
    the queue stand still. ComfyUI knows its own interrupt, and what ends for want of memory, by their classes."""
    hosts = next((cls for cls in (CANCEL.error, *_HOSTS) if issubclass(type(error), cls)), None)
    if hosts is not None:  # a class of a person's own may derive from it
        return error if is_harmless(error) else hosts(f"{node}: {name} raised {error_words(error)}")
    if name in processor_names() and issubclass(type(error), Exception) and is_harmless(error):
        return error
    lines = lines_in(error, files_of(written(processor)))
    if not lines and issubclass(type(error), Exception):  # another node's, which is not known here
        return error
    if not lines:
        return RuntimeError(f"{node}: {error_words(error)} was raised while the model was sampled with {name}.")
    where = f"{short_path(lines[-1][0])}:{lines[-1][1]}"
    return RuntimeError(
        f"{node}: {name} raised {error_words(error)} ({where}) while it computed attention. "
        f"Correct that line, or choose {DEFAULT_PROCESSOR} there, and queue again."
    )


def _finding(error: CannotLoad) -> Finding:
    return Finding(
        severity="error",
        path="processor",
        cls=class_of(error.name),
        where=error.where,
        what=f"{error.name} {error.what}; {DEFAULT_PROCESSOR} is used instead",
        why=error.why,
        fix=error.fix,
        rule="processor-file",
    )


def _unusable(found: list[Finding]) -> Finding | None:
    """The finding for which a processor is not used. What only a graph cannot hold still runs uncompiled."""
    return next((f for f in found if f.severity == "error"), None)


def _not_used(name: str, reason: Finding | None) -> Finding:
    return Finding(
        severity="warning",
        path="processor",
        cls=class_of(name),
        where=reason.where if reason else "input",
        what=f"{name} is not used; {DEFAULT_PROCESSOR} is, so that the picture is finished",
        why=f"It {reason.what}." if reason else "It cannot be called as a processor.",
        fix="Fix what the error says and queue again.",
        rule="processor-not-used",
    )
