// @ts-check
// A record as sections of a report: the panel and the Markdown are both made from these. No DOM in here.

import { duration, elapsed, factor, millions, tiny } from "../status/format.js";
import { attentionFacts, choiceItems } from "../status/attention.js";
import { count, findings, isNumber, list, patchedSites, plain, sentence, unitOf } from "../status/record.js";
import { reasonIn } from "../status/reasons.js";
import { troubleCounts } from "../status/text.js";
import { isNoisy } from "../status/verdict.js";
import { advice } from "./advice.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/record.js").StatusRecord} StatusRecord */
/** @typedef {import("../status/text.js").Line} Line */

/**
 * One thing of a list: where it is, what is said of it, what can be done.
 * @typedef {{tone?: "bad" | "warn" | "plain", label?: string, where: string, text?: string, fix?: string}} Item
 * @typedef {{title: string, items: Item[]}} Group long lists are folded in the panel
 * @typedef {{id: string, title: string, facts: [string, string][], groups: Group[], plot?: boolean}} Section
 * @typedef {{title: string, line: Line, advice: string[], sections: Section[]}} Report
 */

/**
 * @param {{record: StatusRecord | null, line: Line, bypassed: boolean, details: string[], stopped?: string[]}} view its
 *   details are all there is to say when nothing was recorded here
 * @param {string} title of the node
 * @param {Words} words
 * @returns {Report}
 */
export function report({ record, line, bypassed, details, stopped }, title, words) {
  const say = /** @type {Words} */ ((key, values) => words(`panel.${key}`, values));
  const sections =
    record === null
      ? []
      : [
          speed(record, words, say),
          checked(record, words, say),
          patches(record, words, say),
          blocks(record, words, say),
          parity(record, say),
          memory(record, say),
          backend(record, words, say),
          machine(record, say),
        ];
  const filled = sections.filter(({ facts, groups }) => facts.length || groups.length);
  const told = stopped ?? (record === null && !bypassed ? details : advice(record, words, bypassed));
  return { title: plain(title), line, advice: told, sections: filled };
}

/**
 * @param {string} id
 * @param {Words} say
 * @param {[string, string | null | false | undefined][]} facts by word; those without a value are left out
 * @param {[string, Item[]][]} [groups] by title; empty ones are left out
 * @returns {Section}
 */
const section = (id, say, facts, groups = []) => ({
  id,
  title: say(id),
  facts: /** @type {[string, string][]} */ (
    facts.filter(([, value]) => value).map(([key, value]) => [say(key), value])
  ),
  groups: groups.filter(([, items]) => items.length).map(([title, items]) => ({ title, items })),
});

/** @param {StatusRecord} record @param {Words} words @param {Words} say */
function speed(record, words, say) {
  const {
    eager_ms: eager,
    compiled_ms: step,
    speedup,
    per_second: rate,
    breakeven_images: images,
    without_ms: without,
    total_speedup: total,
  } = record.speed ?? {};
  const { seconds, cache, earlier } = record.compile ?? {};
  const kept = record.speed?.kept;
  const unit = unitOf(record);
  const { seconds: busy } = record.progress ?? {};
  const computed = record.speed?.computed ? "_computed" : "_measured";
  return {
    ...section("speed", say, [
      ["busy_for", isNumber(busy) && elapsed(words, busy)],
      ["together", isNumber(total) && say(`together${computed}`, { factor: factor(words, total) })],
      ["without_step", isNumber(without) && say(`step${computed}`, { time: duration(words, without) })],
      [`uncompiled_${unit}`, isNumber(eager) && duration(words, eager)],
      [`compiled_${unit}`, isNumber(step) && duration(words, step)],
      [
        "gain",
        isNumber(speedup) && say(isNoisy(record) ? "noisy_value" : "gain_value", { factor: factor(words, speedup) }),
      ],
      ["kept", (kept === "compiled" || kept === "uncompiled") && say(`kept_${kept}`)],
      ["rate", unit === "step" && isNumber(rate) && say("rate_value", { value: rate.toPrecision(3) })],
      ["compile_time", isNumber(seconds) && compileTime(seconds, earlier ? "earlier" : cache, say)],
      ["breakeven", isNumber(images) && say("breakeven_value", { count: Math.ceil(images) })],
    ]),
    plot: unit === "step" && list(record.speed?.steps_ms).length > 0,
  };
}

/** @param {number} seconds @param {unknown} how @param {Words} say */
function compileTime(seconds, how, say) {
  const key = how === "warm" || how === "cold" || how === "earlier" ? `seconds_${how}` : "seconds";
  return say(key, { seconds: seconds.toFixed(seconds < 10 ? 1 : 0) });
}

/** @param {StatusRecord} record @param {Words} words @param {Words} say */
function checked(record, words, say) {
  const { modules, sites } = record.check ?? {};
  const found = findings(record);
  /** @param {string} severity @returns {Item[]} */
  const of = (severity) =>
    found
      .filter((one) => (["error", "warning"].includes(one.severity ?? "") ? one.severity : "note") === severity)
      .map((one) => ({
        tone: severity === "error" ? "bad" : severity === "warning" ? "warn" : "plain",
        label: words(`details.severity_${severity}`),
        where: [plain(one.path), plain(one.class), plain(one.where)].filter(Boolean).join(" · "),
        text: [sentence(one.what), sentence(one.why)].filter(Boolean).join(" "),
        fix: plain(one.fix),
      }));
  return section(
    "check",
    say,
    [
      ["modules", (count(modules) ?? 0) > 0 && String(count(modules))], // a node that patches walks over none
      ["sites", count(sites) !== null && String(count(sites))],
      ["result", record.check && (troubleCounts(record, words) || words("status.no_problems"))],
    ],
    ["error", "warning", "note"].map((severity) => {
      const items = of(severity);
      return [say(`${severity}s`, { count: items.length }), items];
    }),
  );
}

/** @param {StatusRecord} record @param {Words} words @param {Words} say */
function patches(record, words, say) {
  /** @type {Map<string, Item[]>} */
  const sites = new Map();
  for (const { site, processor } of patchedSites(record)) {
    const name = plain(processor);
    sites.set(name, [...(sites.get(name) ?? []), { where: plain(site) }]);
  }
  const foreign = list(record.patches?.foreign).map((other) =>
    other && typeof other === "object"
      ? { where: plain(other.where), text: plain(other.what) }
      : { where: "", text: plain(other) },
  );
  const reached = count(record.patches?.reached);
  const [tried, others] = choiceItems(record, words, say);
  const left = list(record.patches?.left).map((one) => ({
    where: reasonIn(one?.reason, words),
    text: say("calls", { count: count(one?.calls) ?? 0 }),
  }));
  return section(
    "patches",
    say,
    [
      [
        "patched",
        record.patches && [...sites].map(([name, at]) => say("at_sites", { name, count: at.length })).join(", "),
      ],
      ["sites_called", reached !== null && say("of", { done: reached, total: patchedSites(record).length })],
      ...attentionFacts(record, words, say),
    ],
    [
      [say("choices", { count: tried.length }), tried],
      [say("left_calls", { count: left.length }), left],
      [say("not_candidates", { count: others.length }), others],
      ...[...sites].map(
        ([name, at]) => /** @type {[string, Item[]]} */ ([say("sites_of", { name, count: at.length }), at]),
      ),
      [say("foreign", { count: foreign.length }), foreign],
    ],
  );
}

/** "attention override in 9 blocks, 1.3 ms a step" @param {any} one @param {Words} words @param {Words} say */
function operator(one, words, say) {
  const at = say("operator_in", { what: plain(one?.what), count: count(one?.blocks) ?? 0 });
  return isNumber(one?.ms) ? `${at}, ${words("status.a_step", { time: duration(words, one.ms) })}` : at;
}

/** @param {StatusRecord} record @param {Words} words @param {Words} say */
function blocks(record, words, say) {
  const {
    regions,
    regions_compiled: done,
    regions_uncompiled: left,
    regions_not_called: uncalled,
    operators,
    graphs,
    graph_breaks,
    recompiles,
    cache_hits: hits,
    cache_misses: misses,
    seconds_saved: saved,
    cache_notes: notes,
  } = record.compile ?? {};
  const looked = isNumber(hits) && isNumber(misses) ? hits + misses : 0;
  const kept = { hits: String(hits), total: String(looked), saved: isNumber(saved) ? saved.toFixed(1) : "0" };
  /** @param {unknown} items @param {string} where @returns {Item[]} */
  const items = (items, where) =>
    list(items).map((item) => ({ where: plain(item?.[where]), text: reasonIn(item?.reason, words) }));
  const uncompiled = items(left, "path");
  const inside = list(operators).map((one) => ({ where: plain(one?.where), text: operator(one, words, say) }));
  const without = list(uncalled).map((path) => ({ where: plain(path) }));
  const breaks = items(graph_breaks, "where");
  const again = items(recompiles, "region");
  return section(
    "blocks",
    say,
    [
      ["blocks_compiled", count(regions) !== null && say("of", { done: count(done) ?? 0, total: count(regions) ?? 0 })],
      ["graphs", count(graphs) !== null && String(count(graphs))],
      ["breaks", count(graph_breaks) !== null && String(count(graph_breaks))],
      ["recompiles", count(recompiles) !== null && String(count(recompiles))],
      ["from_cache", looked > 0 && say("from_cache_value", kept)],
      ["cache_notes", list(notes).map(plain).filter(Boolean).join(" ")],
    ],
    [
      [say("operators", { count: inside.length }), inside],
      [say("blocks_uncompiled", { count: uncompiled.length }), uncompiled],
      [say("blocks_not_called", { count: without.length }), without],
      [say("breaks_list", { count: breaks.length }), breaks],
      [say("recompiles_list", { count: again.length }), again],
    ],
  );
}

/** @param {StatusRecord} record @param {Words} say */
function parity(record, say) {
  const { max_abs, relative, cosine, tolerance, passed } = record.parity ?? {};
  return section("parity", say, [
    ["verdict", typeof passed === "boolean" && say(passed ? "parity_passed" : "parity_failed")],
    ["relative", isNumber(relative) && tiny(relative)],
    ["tolerance", isNumber(tolerance) && tiny(tolerance)],
    ["max_abs", isNumber(max_abs) && tiny(max_abs)],
    ["cosine", isNumber(cosine) && String(+cosine.toFixed(6))],
  ]);
}

/** @param {StatusRecord} record @param {Words} say */
function memory(record, say) {
  const { eager_peak_mb: eager, compiled_peak_mb: peak } = record.memory ?? {};
  return section("memory", say, [
    ["memory_uncompiled", isNumber(eager) && `${Math.round(eager)} MB`],
    ["memory_compiled", isNumber(peak) && `${Math.round(peak)} MB`],
  ]);
}

/** @param {StatusRecord} record @param {Words} words @param {Words} say */
function backend(record, words, say) {
  const { requested, used, version, reason } = record.backend ?? {};
  return section("backend", say, [
    ["requested", plain(requested)],
    ["used", record.backend && ([plain(used), plain(version)].filter(Boolean).join(" ") || say("none"))],
    ["reason", reasonIn(reason, words)],
  ]);
}

/** @param {StatusRecord} record @param {Words} say */
function machine(record, say) {
  const { parameters, dtype, device } = record.model ?? {};
  const when = new Date(record.measured_at ?? "");
  const { device: name, device_name, ...versions } = record.machine ?? {};
  const parts = [
    plain(record.model?.file),
    plain(record.model?.class),
    isNumber(parameters) && say("parameters", { value: millions(parameters) }),
    plain(dtype),
    plain(device),
  ];
  return section("machine", say, [
    ["model", parts.filter(Boolean).join(", ")],
    ["device", plain(name) || plain(device_name)],
    ["versions", versionsOf(versions).join(", ")],
    ["measured_at", !Number.isNaN(when.getTime()) && when.toLocaleString()],
  ]);
}

/** @param {Record<string, any>} versions {"torch": "2.11.0", "backends": {"inductor": "2.11.0"}} @returns {string[]} */
const versionsOf = (versions) =>
  Object.entries(versions).flatMap(([name, value]) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? versionsOf(value)
      : plain(value)
        ? [`${plain(name)} ${plain(value)}`]
        : [],
  );
