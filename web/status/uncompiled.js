// @ts-check
// The line of a model that runs uncompiled, and why something did not happen.

import { together } from "./attention.js";
import { duration, factor, percentFaster } from "./format.js";
import { reasonIn } from "./reasons.js";
import { findings, isNumber, plain, unitOf } from "./record.js";
import { gainsNowhere, isSlower, isUnclear } from "./verdict.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */
/** @typedef {import("./text.js").Draft} Draft */

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
export function uncompiled(record, words) {
  const { eager_ms: eager, compiled_ms: compiled } = record.speed ?? {};
  const step = isNumber(eager) ? words(`status.an_uncompiled_${unitOf(record)}`, { time: duration(words, eager) }) : null;
  // Where it is not clear, the summary says that no gain was seen.
  const by = isSlower(record) && !isUnclear(record) ? slowerBy(eager, compiled, words) : "";
  const [patch = null] = together(record, words);
  if (by) return { symbol: "▽", tone: "plain", parts: [patch, words("status.slower", { by }), patch ? null : step] };
  const why = whyUncompiled(record, words);
  const tone = isUnclear(record) || gainsNowhere(record) ? "plain" : "warn";
  const said = patch && why && !gainsNowhere(record) ? words("status.uncompiled_because", { why }) : why;
  return { symbol: "▽", tone, parts: [patch ?? words("status.uncompiled"), { text: said, elastic: true }] };
}

/**
 * Why nothing runs compiled, in few words: a node has room for no more, and the report has all of them.
 * @param {StatusRecord} record
 * @param {Words} words
 */
function whyUncompiled(record, words) {
  const { pairs } = record.speed ?? {};
  if (gainsNowhere(record)) return words("status.gains_nothing");
  if (isUnclear(record) && isNumber(pairs) && pairs > 1) return words("status.no_clear_gain", { count: pairs });
  if (isUnclear(record)) return reason(record, words);
  return record.parity?.passed === false ? words("status.differs") : reason(record, words);
}

/**
 * "9 % slower", from 2 times on "2.40× slower"; empty where these figures are missing, or say the opposite.
 * @param {unknown} eager milliseconds of an uncompiled step
 * @param {unknown} compiled milliseconds of a compiled step
 * @param {Words} words
 */
export function slowerBy(eager, compiled, words) {
  if (!isNumber(eager) || !isNumber(compiled) || eager <= 0 || compiled <= eager) return "";
  return compiled < 2 * eager
    ? words("number.by_percent", { value: percentFaster(eager, compiled) })
    : words("number.by_factor", { factor: factor(words, compiled / eager) });
}

/**
 * Why something did not happen: the summary says it behind its colon.
 * @param {StatusRecord} record
 * @param {Words} words
 */
export function reason(record, words) {
  const summary = plain(record.summary);
  const colon = summary.indexOf(": ");
  if (colon >= 0) return reasonIn(summary.slice(colon + 2), words);
  const error = findings(record).find((found) => found.severity === "error");
  const region = Array.isArray(record.compile?.regions_uncompiled) ? record.compile.regions_uncompiled[0] : null;
  return (
    plain(error?.what) ||
    reasonIn(region?.reason, words) ||
    reasonIn(record.backend?.reason, words) ||
    (summary === record.state ? "" : summary)
  );
}
