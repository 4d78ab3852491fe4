"""The record's one line in English. The canvas builds its own, in the user's language, from the same fields."""

from __future__ import annotations

import re
from typing import Any

NOT_FINITE = "black picture: NaN or Inf"

#: Attention that is faster by less is as fast.
NOISE = 1.03


def count(number: int, singular: str) -> str:
    """``count(1, "block")`` is "1 block", ``count(3, "block")`` is "3 blocks"."""
    return f"{number} {singular}" if number == 1 else f"{number} {singular}s"


def longer(speedup: float) -> str:
    """``longer(0.8)`` is "25 % longer", ``longer(0.4)`` "2.5 times as long"."""
    return f"{(1 / speedup - 1) * 100:.0f} % longer" if speedup > 0.5 else f"{1 / speedup:.1f} times as long"


def summarize(record: dict[str, Any]) -> str:
    """The summary line of a record, for example "compiled · inductor · 1.62× · 38 blocks"."""
    line = held(record) or not_used(record) or stopped(record) or _SENTENCES.get(record["state"], _plain)(record)
    parts = [NOT_FINITE if record["not_finite"] else None, line, in_some_steps(record), approximate(record)]
    line = line if record["held"] is not None else " · ".join(filter(None, parts))
    return " ".join(line.split())  # a name, or a reason, may have several lines


def held(record: dict[str, Any]) -> str | None:
    """Where a call of a processor is that has not returned; None where none is known."""
    found = record["held"]
    if found is None:
        return None
    if found["cancelled"]:
        return f"Cancel cannot end {found['where']}: restart ComfyUI, or wait"
    return f"{found['where']} has not returned for {found['seconds']:.0f} s: Cancel, or wait"


def in_some_steps(record: dict[str, Any]) -> str | None:
    """In how many steps the node took part, None where in all, in none, or nobody knows."""
    unused = record["unused"] or {}
    if unused.get("why") != "some steps" or record["state"] not in ("patched", "compiled", "partial"):
        return None
    by = f" (the others: “{unused['by']}”)" if unused["by"] else ""
    return f"took part in {unused['steps']} of {count(unused['of'], 'step')}{by}"


def approximate(record: dict[str, Any]) -> str | None:
    """How far the steps that leave blocks out are off, None where none does."""
    found = record["approximate"]
    if not found or not found["steps"]:
        return None
    off = "" if found["off"] is None else f", steps {percent(found['off'])} off"
    return f"approximate{off} ({found['by']})"


def percent(share: float) -> str:
    """``percent(0.0312)`` is "3 %", ``percent(0.0031)`` "0.3 %"."""
    return f"{share * 100:.0f} %" if share >= 0.01 else f"{share * 100:.1g} %"


def not_used(record: dict[str, Any]) -> str | None:
    """Why what the node did to the model has no effect, None when it has, or nobody knows yet."""
    unused = record["unused"]
    if unused is None or unused["why"] == "some steps" or record["state"] not in ("patched", "uncompiled"):
        return None
    if unused["why"] == "not sampled":
        return "not used: nothing sampled this model"
    if unused["why"] == "not used":
        return "not used: nothing called it in this run"
    if unused["why"] == "adds nothing":
        return f"no effect: {_ADDS_NOTHING[unused['because']]}"
    by, at = unused["by"], "attention" if record["state"] == "patched" else "the blocks"
    if unused["why"] == "not called":
        return (
            f"no effect: “{by}” runs in the model's place"
            if by
            else "no effect: the model was not called as ComfyUI calls it"
        )
    return f"no effect: “{by}” computes {at} instead" if by else f"no effect: the model did not call {at}"


_ADDS_NOTHING = {
    "strength": "the file's strength is 0",
    "weight": "the picture's weight is 0",
    "range": "start_percent is after end_percent",
    "mask": "the mask is black",
    "no step": "no step lies between start_percent and end_percent",
}


def stopped(record: dict[str, Any]) -> str | None:
    """How far compiling came when a sampling ended before it was done; None when it was, or nothing is left to do."""
    found = (record["compile"] or {}).get("stopped")
    if found and found.get("beside") and record["state"] in ("idle", "partial", "measuring"):
        line = "compiling in the background"
        return line if record["state"] == "measuring" else f"{line} · used from the next picture"
    if not found or record["state"] not in ("idle", "partial"):
        return None
    at = f"stopped at {found['done']}/{found['total']}" if found["total"] else "stopped"
    return f"{at} · goes on with the next new picture"


def _plain(record: dict[str, Any]) -> str:
    progress = record["progress"] or {}
    if progress.get("total"):
        return f"{record['state']} {progress['done']}/{progress['total']}"
    return str(record["state"])


def _idle(record: dict[str, Any]) -> str:
    later = (record["backend"] or {}).get("replaced_by")
    if later:
        return f"left to the later node {later}"
    regions = (record["compile"] or {}).get("regions")
    when = "at the first use" if _is_of_runs(record) else "when sampling"
    return f"ready: {count(regions, 'block')} to compile {when}" if regions else "not run yet"


def _is_of_runs(record: dict[str, Any]) -> bool:
    """Whether its times are of whole runs, as of a VAE, and not of steps."""
    return (record["compile"] or {}).get("unit") == "run"


def _patched(record: dict[str, Any]) -> str:
    patches = record["patches"] or {"sites": [], "foreign": []}
    names = sorted({site["processor"] for site in patches["sites"]})
    rejected = patches.get("rejected")
    if rejected:
        why = ": ".join(filter(None, (rejected["where"], rejected["what"])))
        return f"{rejected['class']} not used, {', '.join(names) or 'nothing'} is · {why}"
    auto = patches.get("auto") or {}
    if auto.get("state") in _AUTO:
        return _AUTO[auto["state"]]
    if not names:
        return "nothing patched"
    by_sdpa = patches.get("by_sdpa")
    left = f" · {count(by_sdpa, 'call')} by sdpa" if by_sdpa else ""
    chosen = "auto: " if auto else ""
    ratio = (patches.get("gain") or auto).get("attention_speedup")
    faster = f" · attention {ratio:.2f}×" if ratio and ratio >= NOISE else ""
    taken, total = patches.get("taken") or {"sites": 0, "by": None}, len(patches["sites"])
    at = f"{total - taken['sites']} of {total} sites" if taken["sites"] else count(total, "site")
    others = f" (the others: “{taken['by']}”)" if taken["by"] else ""
    return f"patched {at}{others} · {chosen}{', '.join(names)}{faster}{left}"


_AUTO = {
    "deciding": "auto: chooses in the first step",
    "no gain": "auto: no gain, nothing was replaced",
    "left": "auto: another node's attention stays",
    "untried": "auto: nothing could be tried, nothing was replaced",
}


def _checked(record: dict[str, Any]) -> str:
    check = record["check"]
    if not check["errors"] and not check["warnings"]:
        return f"checked {count(check['modules'], 'module')}, no problems"
    return f"checked: {count(check['errors'], 'error')}, {count(check['warnings'], 'warning')}"


def _passed(record: dict[str, Any]) -> str:
    findings = (record["check"] or {}).get("findings") or []
    return str(findings[0]["what"]) if findings else "handed on"


def _compiled(record: dict[str, Any]) -> str:
    compile_, speed = record["compile"] or {}, record["speed"] or {}
    gained = {"slower": ", but slower", "same": ", no gain"}
    parts = [
        record["state"] + gained.get(str(speed.get("verdict")), ""),
        (record["backend"] or {}).get("used") or "no backend",
    ]
    parts += _from_patch(speed)
    if speed.get("noisy"):
        parts.append("noisy, no clear difference")
    elif "verdict" in speed and not speed["verdict"] and speed.get("pairs"):
        parts.append(f"not clear yet ({count(speed['pairs'], 'comparison')})")
    elif speed.get("speedup"):
        parts.append(f"{speed['speedup']:.2f}×")
    owners = packs_inside(compile_)
    if owners:
        parts.append(f"with attention from {', '.join(owners)}")
    blocks = count(compile_.get("regions_compiled") or 0, "block")
    skipped = len(compile_.get("regions_uncompiled") or [])
    why = "would gain nothing" if skipped == compile_.get("regions_without_gain") else "uncompiled"
    parts.append(f"{blocks}, {skipped} {why}" if skipped else blocks)
    return " · ".join(parts)


def _from_patch(speed: dict[str, Any]) -> list[str]:
    """What patched attention gains, with what compiling adds to it; "about": computed from times of attention."""
    patch, total = speed.get("patch_speedup"), speed.get("total_speedup")
    if not patch or not total or patch < NOISE:
        return []
    about = "about " if speed.get("computed") else ""
    if speed.get("verdict") and total != patch:
        return [f"{about}{total:.2f}× together (attention {patch:.2f}×)"]
    return [f"{about}{patch:.2f}× from patched attention"]


def packs_inside(compile_: dict[str, Any]) -> list[str]:
    """The node packs whose code runs inside compiled blocks: "ComfyUI-KJNodes.nodes:attention" is of KJNodes. ComfyUI's
    own is a choice of how attention is computed."""
    names = (re.split(r"[.:]", one["where"])[0] for one in compile_.get("operators") or [])
    packs = dict.fromkeys(re.sub(r"(?i)^comfyui[-_]|[-_]comfyui$", "", name) for name in names)
    return [pack for pack in packs if pack and not re.match(r"comfy(_\w+)?$", pack)]


def _uncompiled(record: dict[str, Any]) -> str:
    speed = record["speed"] or {}
    reason = (record["backend"] or {}).get("reason")
    if speed.get("kept") == "uncompiled" and speed.get("verdict") == "slower":
        reason = f"compiled {'runs' if _is_of_runs(record) else 'steps'} took {longer(speed['speedup'])}"
    return " · ".join([*_from_patch(speed), f"uncompiled: {reason}" if reason else "uncompiled"])


def _failed(record: dict[str, Any]) -> str:
    findings = (record["check"] or {}).get("findings") or []
    reason = (record["backend"] or {}).get("reason") or (findings[0]["what"] if findings else None)
    return f"failed: {reason}" if reason else "failed"


_SENTENCES = {
    "starting": lambda record: "starting the compiler",
    "idle": _idle,
    "patched": _patched,
    "checked": _checked,
    "passed": _passed,
    "compiled": _compiled,
    "partial": _compiled,
    "uncompiled": _uncompiled,
    "failed": _failed,
}
