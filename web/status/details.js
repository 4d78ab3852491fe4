// @ts-check
// A record as plain sentences: what the tooltip of the status line says.

import { approximateDetails } from "./approximate.js";
import { processorsOf } from "./attention.js";
import { duration, elapsed, factor, millions, tiny } from "./format.js";
import {
  count,
  findings,
  isNumber,
  list,
  patchedSites,
  plain,
  sentence,
  stoppedAt,
  takenSites,
  tookPart,
  unusedBecause,
  unitOf,
} from "./record.js";
import { reasonIn } from "./reasons.js";
import { troubleCounts } from "./text.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */

// A native tooltip cannot be scrolled.
const MOST = 5;

/**
 * @param {StatusRecord | null} record
 * @param {Words} words
 * @returns {string[]} one sentence a line
 */
export function details(record, words) {
  if (record === null) return [words("details.idle")];
  const tell = /** @type {Words} */ ((key, values) => words(`details.${key}`, values));
  return [
    record.held ? tell("held", { processor: processorsOf(record).join(", "), where: plain(record.held.where) }) : "",
    ...unused(record, words, tell),
    ...approximateDetails(record, tell),
    ...model(record, tell),
    ...backend(record, words, tell),
    ...patches(record, tell),
    ...check(record, words, tell),
    ...compiled(record, words, tell),
    ...speed(record, words, tell),
    ...parity(record, tell),
    ...memory(record, tell),
    ...provenance(record, tell),
  ].filter(Boolean);
}

/**
 * @template T
 * @param {T[]} items
 * @param {Words} tell
 * @param {(item: T) => string} line
 */
function some(items, tell, line) {
  const lines = items.slice(0, MOST).map(line).filter(Boolean);
  return items.length > MOST ? [...lines, tell("more", { count: items.length - MOST })] : lines;
}

/** @param {StatusRecord} record @param {Words} tell */
function model(record, tell) {
  const { parameters, dtype, device } = record.model ?? {};
  const parts = [
    plain(record.model?.class),
    isNumber(parameters) ? tell("parameters", { value: millions(parameters) }) : "",
    plain(dtype),
    plain(device),
  ];
  const said = parts.filter(Boolean).join(", ");
  return said ? [tell("model", { model: said })] : [];
}

/** @param {StatusRecord} record @param {Words} words @param {Words} tell */
function unused(record, words, tell) {
  const by = plain(record.unused?.by);
  const where = plain(record.unused?.where);
  const part = tookPart(record);
  if (part) {
    const said = words(part.by ? "unused.some_steps_by" : "unused.some_steps", part);
    return [sentence(said), where ? tell("unused_where", { by, where }) : ""];
  }
  const because = unusedBecause(record);
  if (!because) return [];
  return [sentence(words(`unused.${because}`, { by })), where ? tell("unused_where", { by, where }) : ""];
}

/** @param {StatusRecord} record @param {Words} words @param {Words} tell */
function backend(record, words, tell) {
  if (!record.backend) return [];
  const requested = plain(record.backend.requested);
  const used = plain(record.backend.used);
  const version = plain(record.backend.version);
  const reason = reasonIn(record.backend.reason, words);
  const name = version ? `${used} ${version}` : used;
  const said = used
    ? tell(["", "auto", used].includes(requested) ? "backend" : "backend_instead", { name, requested })
    : tell("backend_none", { requested });
  return [reason ? `${said} ${reason}` : said];
}

/** @param {StatusRecord} record @param {Words} tell */
function patches(record, tell) {
  if (!record.patches) return [];
  /** @type {Map<string, number>} */
  const sites = new Map();
  for (const { processor } of patchedSites(record)) sites.set(plain(processor), (sites.get(plain(processor)) ?? 0) + 1);
  const taken = takenSites(record);
  const foreign = list(record.patches.foreign).map((other) =>
    typeof other === "object" ? [plain(other?.what), plain(other?.where)].filter(Boolean).join(", ") : plain(other),
  );
  return [
    ...some([...sites], tell, ([processor, number]) => tell("patched", { processor, count: number })),
    taken ? tell(taken.by ? "taken_by" : "taken", taken) : "",
    ...some(foreign.filter(Boolean), tell, (other) => tell("foreign", { what: other })),
  ];
}

/** @param {StatusRecord} record @param {Words} words @param {Words} tell */
function check(record, words, tell) {
  if (!record.check) return [];
  const modules = count(record.check.modules);
  const sites = count(record.check.sites) ?? 0;
  const found = troubleCounts(record, words) || words("status.no_problems");
  const looked = !modules ? [] : [tell("checked", { modules, sites, found })];
  const rank = (/** @type {import("./record.js").Finding} */ { severity }) =>
    severity === "error" ? 0 : severity === "warning" ? 1 : 2;
  const ranked = findings(record).sort((a, b) => rank(a) - rank(b));
  return [...looked, ...some(ranked, tell, (found) => finding(found, tell))];
}

/** @param {import("./record.js").Finding} found @param {Words} tell */
function finding(found, tell) {
  const severity = tell(
    ["error", "warning"].includes(found.severity ?? "") ? `severity_${found.severity}` : "severity_note",
  );
  const place = [plain(found.class), plain(found.where)].filter(Boolean).join(", ");
  const at = place ? tell("finding_at", { path: plain(found.path), place }) : plain(found.path);
  const said = [sentence(found.what), sentence(found.why), sentence(found.fix)].filter(Boolean).join(" ");
  return tell("finding", { severity, at, said });
}

/** @param {StatusRecord} record @param {Words} words @param {Words} tell */
function compiled(record, words, tell) {
  if (!record.compile) return [];
  const { regions, regions_compiled: done, graphs, graph_breaks: breaks, recompiles, seconds, cache } = record.compile;
  const said = [];
  const stopped = stoppedAt(record);
  if (stopped?.beside) said.push(tell("in_background"));
  else if (stopped) {
    const { done, total } = stopped;
    said.push(tell(total > 0 ? "stopped_at" : "stopped_early", { done, total }));
  }
  else if (count(regions) !== null && record.state !== "uncompiled")
    said.push(tell("regions", { done: count(done) ?? 0, total: count(regions) ?? 0 }));
  const uncalled = count(record.compile.regions_not_called);
  if (uncalled) said.push(tell("not_called", { count: uncalled }));
  if (count(graphs) !== null) {
    said.push(
      tell("graphs", { graphs: count(graphs) ?? 0, breaks: count(breaks) ?? 0, recompiles: count(recompiles) ?? 0 }),
    );
  }
  if (isNumber(seconds))
    said.push(
      tell(cache === "warm" ? "compile_warm" : "compile_cold", { seconds: seconds.toFixed(seconds < 10 ? 1 : 0) }),
    );
  return [
    said.join(" "),
    ...some(list(record.compile.regions_uncompiled), tell, (left) =>
      tell("region_uncompiled", { path: plain(left?.path), reason: sentence(reasonIn(left?.reason, words)) }),
    ),
    ...some(list(breaks), tell, (broken) =>
      tell("graph_break", { where: plain(broken?.where), reason: sentence(broken?.reason) }),
    ),
    ...some(list(recompiles), tell, (again) =>
      tell("recompile", { region: plain(again?.region), reason: sentence(again?.reason) }),
    ),
  ];
}

/** @param {StatusRecord} record @param {Words} words @param {Words} tell */
function speed(record, words, tell) {
  const { eager_ms: eager, compiled_ms: step, speedup, breakeven_images: images } = record.speed ?? {};
  const said = [];
  if (isNumber(eager)) said.push(tell(`uncompiled_${unitOf(record)}`, { time: duration(words, eager) }));
  if (isNumber(step)) said.push(tell(`compiled_${unitOf(record)}`, { time: duration(words, step) }));
  if (isNumber(speedup)) said.push(tell("speedup", { factor: factor(words, speedup) }));
  if (record.speed?.kept === "uncompiled") said.push(tell("kept_uncompiled"));
  if (isNumber(images)) said.push(tell("breakeven", { count: Math.ceil(images) }));
  if (record.progress && isNumber(record.progress.seconds))
    said.push(tell("since", { time: elapsed(words, record.progress.seconds) }));
  return [said.join(" ")];
}

/** @param {StatusRecord} record @param {Words} tell */
function parity(record, tell) {
  const { relative, max_abs: largest, tolerance, passed } = record.parity ?? {};
  if (typeof passed !== "boolean") return [];
  const difference = isNumber(relative) ? relative : largest;
  if (!isNumber(difference) || !isNumber(tolerance)) return [tell(passed ? "parity_same" : "parity_differs")];
  return [
    tell(passed ? "parity_within" : "parity_outside", { difference: tiny(difference), tolerance: tiny(tolerance) }),
  ];
}

/** @param {StatusRecord} record @param {Words} tell */
function memory(record, tell) {
  const { eager_peak_mb: eager, compiled_peak_mb: peak } = record.memory ?? {};
  return isNumber(eager) && isNumber(peak)
    ? [tell("memory", { eager: Math.round(eager), compiled: Math.round(peak) })]
    : [];
}

/** @param {StatusRecord} record @param {Words} tell */
function provenance(record, tell) {
  const device = plain(record.machine?.device) || plain(record.machine?.device_name);
  const when = new Date(record.measured_at ?? "");
  if (Number.isNaN(when.getTime())) return device ? [tell("machine", { device })] : [];
  return [tell(device ? "measured_on" : "measured", { time: when.toLocaleString(), device })];
}
