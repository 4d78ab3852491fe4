"""A run's records as the short table that the demo prints. A field may be missing or null: then it says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NOTHING = "not measured"
_LISTED = 5

Record = dict[str, Any]
Rows = list[tuple[str, str]]


def table(records: Iterable[Record]) -> list[str]:
    """The table's lines, the names in one column: "backend         inductor 2.11.0: …"."""
    rows = [row for record in merged(records) for row in row_group(record)]
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}   {text}".rstrip() for name, text in rows]


def merged(records: Iterable[Record]) -> list[Record]:
    """One record of all: each node of the row fills its own part, and what several fill is put together."""
    ordered = sorted(records, key=lambda r: _order(r.get("node")))
    result: Record = {}
    for record in ordered:
        result.update({name: value for name, value in record.items() if value is not None})
    for name, lists in (("patches", ("sites", "foreign")), ("check", ("findings",))):
        parts = [record[name] for record in ordered if record.get(name)]
        if parts:
            result[name] = {**parts[-1], **{key: _union(part.get(key) for part in parts) for key in lists}}
    if result.get("check"):
        severities = [finding.get("severity") for finding in result["check"]["findings"]]
        result["check"].update(errors=severities.count("error"), warnings=severities.count("warning"))
    return [result] if result else []


def _union(lists: Iterable[list | None]) -> list:
    result: list = []
    for items in lists:
        result += [item for item in items or () if item not in result]
    return result


def row_group(record: Record) -> Rows:
    rows: Rows = [("status", record.get("summary") or record.get("state") or NOTHING)]
    rows += _model(record.get("model"), record.get("machine"))
    rows += _patches(record.get("patches"))
    rows += _check(record.get("check"))
    rows += _backend(record.get("backend"))
    rows += _compile(record.get("compile"))
    rows += _speed(record.get("speed"))
    rows += _parity(record.get("parity"))
    return rows


def _model(model: Record | None, machine: Record | None) -> Rows:
    if not model:
        return [("model", NOTHING)]
    parts = [str(model.get("class") or "?")]
    if model.get("parameters"):
        parts.append(f"{model['parameters'] / 1e6:,.0f} M parameters")
    parts += [str(model[name]).replace("torch.", "") for name in ("dtype", "device") if model.get(name)]
    if machine and machine.get("device"):
        parts.append(str(machine["device"]))
    return [("model", ", ".join(parts))]


def _patches(patches: Record | None) -> Rows:
    if patches is None:
        return [("processors", NOTHING)]
    names: dict[str, int] = {}
    for site in patches.get("sites") or ():
        names[site["processor"]] = names.get(site["processor"], 0) + 1
    text = ", ".join(f"{name} at {_count(number, 'site')}" for name, number in names.items()) or "none"
    rows = [("processors", text)]
    foreign = patches.get("foreign") or ()
    if foreign:
        rows.append(("other patches", "; ".join(_words(item) for item in foreign)))
    return rows


def _check(check: Record | None) -> Rows:
    if check is None:
        return [("findings", NOTHING)]
    errors, warnings = check.get("errors") or 0, check.get("warnings") or 0
    of = f" in {_count(check['modules'], 'module')}" if check.get("modules") is not None else ""
    rows = [("findings", f"{_count(errors, 'error')}, {_count(warnings, 'warning')}{of}")]
    findings = [f for f in check.get("findings") or () if f.get("severity") != "note"]
    for finding in findings[:_LISTED]:
        where = finding.get("path") or finding.get("class") or "the model"
        rows.append(("", f"{finding.get('severity')}: {where}: {finding.get('what')} {finding.get('fix') or ''}"))
    return rows + _rest(findings)


def _backend(backend: Record | None) -> Rows:
    if not backend:
        return [("backend", NOTHING)]
    used = " ".join(str(backend[k]) for k in ("used", "version") if backend.get(k)) or "none"
    return [("backend", f"{used}: {backend['reason']}" if backend.get("reason") else used)]


def _compile(data: Record | None) -> Rows:
    if not data:
        return [(name, NOTHING) for name in ("blocks", "graphs", "graph breaks", "recompiles", "compiling")]
    rows: Rows = [("blocks", f"{_number(data.get('regions_compiled'))} of {_number(data.get('regions'))} compiled")]
    uncompiled = data.get("regions_uncompiled") or []
    rows += [("", f"uncompiled: {item.get('path')}: {item.get('reason')}") for item in uncompiled[:_LISTED]]
    rows += _rest(uncompiled)
    rows.append(("graphs", _number(data.get("graphs"))))
    for name, key in (("graph breaks", "graph_breaks"), ("recompiles", "recompiles")):
        items = data.get(key)
        rows.append((name, NOTHING if items is None else str(len(items))))
        for item in (items or [])[:_LISTED]:
            rows.append(("", f"{item.get('where') or item.get('region')}: {item.get('reason')}"))
        rows += _rest(items or [])
    seconds = data.get("seconds")
    cache = f", {data['cache']} cache" if data.get("cache") else ""
    rows.append(("compiling", NOTHING if seconds is None else f"{seconds:.1f} s{cache}"))
    return rows


def _speed(speed: Record | None) -> Rows:
    speed = speed or {}
    rows: Rows = [
        ("uncompiled", _milliseconds(speed.get("eager_ms"))),
        ("compiled", _milliseconds(speed.get("compiled_ms"))),
    ]
    gain = speed.get("speedup")
    kept = f", kept: {speed['kept']}" if speed.get("kept") else ""
    rows.append(("speedup", NOTHING if gain is None else f"{gain:.2f}×{kept}"))
    return rows


def _parity(parity: Record | None) -> Rows:
    if not parity or parity.get("relative") is None:
        return [("parity", NOTHING)]
    verdict = NOTHING if parity.get("passed") is None else "passed" if parity["passed"] else "failed"
    tolerance = f", tolerance {parity['tolerance']:g}" if parity.get("tolerance") is not None else ""
    return [("parity", f"relative difference {parity['relative']:.2g}{tolerance}: {verdict}")]


def _rest(items: list) -> Rows:
    return [("", f"… and {len(items) - _LISTED} more")] if len(items) > _LISTED else []


def _milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f} ms a step" if value >= 10 else f"{value:.2f} ms a step"


def _number(value: Any) -> str:
    return NOTHING if value is None else str(value)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _words(item: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in item.items()) if isinstance(item, dict) else str(item)


def _order(node: Any) -> tuple[int, ...]:
    """Sorts "12" after "3", and "3:12" inside it."""
    return tuple(int(part) if part.isdigit() else 0 for part in str(node).split(":"))
