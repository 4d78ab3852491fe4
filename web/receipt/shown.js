// @ts-check
// What a node shows: this server's record, one from before its restart, or the receipt of the workflow file.

import { details } from "../status/details.js";
import { isOutcome, plain } from "../status/record.js";
import { describe } from "../status/text.js";
import { describeReceipt, receiptDetails } from "./receipt.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/text.js").Line} Line */

/**
 * @typedef {Object} Known what is known about a node
 * @property {import("../status/store.js").Entry | null} entry
 * @property {{receipt: import("./receipt.js").Receipt, mine: boolean} | null} past what the file says
 * @property {boolean} bypassed
 * @property {number} age seconds since the record arrived
 * @property {ReturnType<typeof import("../status/stopped.js").stoppedBy>} [stopped]
 * @property {string | null} [changed] title of a node whose values were changed since
 */

/**
 * @param {Known} known
 * @param {Words} words
 * @returns {{line: Line, details: string[], stopped?: string[]}}
 */
export function shown({ entry, past, bypassed, age, stopped = null, changed = null }, words) {
  const record = entry?.record ?? null;
  if (stopped && !bypassed) return didNotRun(stopped, record, words);
  // While the sampler is waited for, the author's figures are still the only ones there are.
  if (past && !bypassed && (record === null || (record.state === "idle" && !past.mine))) {
    const { receipt, mine } = past;
    return { line: describeReceipt(receipt, words, mine), details: receiptDetails(receipt, words, mine, details) };
  }
  const line = describe(record, words, { bypassed, age });
  if (entry?.stale && !bypassed)
    return { line: earlier(line, words("presence.stale")), details: [words("presence.stale_details"), ...details(record, words)] };
  if (changed !== null && !bypassed && record !== null && isOutcome(record)) {
    const told = words("presence.changed_details", { title: plain(changed) });
    return { line: earlier(line, words("presence.changed")), details: [told, ...details(record, words)] };
  }
  return { line, details: details(record, words) };
}

/**
 * @param {NonNullable<Known["stopped"]>} check
 * @param {import("../status/record.js").StatusRecord | null} record of the run before
 * @param {Words} words
 */
function didNotRun({ title, stale: isStale }, record, words) {
  const said = [words("status.stopped"), words("status.stopped_by", { title: plain(title) })];
  const parts = said.map((text, index) => ({ text, elastic: index > 0 }));
  /** @type {Line} */
  const line = { symbol: "⊘", tone: "warn", parts, text: said.join(" · ") };
  const ranBefore = record !== null && isOutcome(record);
  const told = [words("details.stopped", { title: plain(title) }), ...(ranBefore ? [words("details.run_before")] : [])];
  const all = ranBefore ? [...told, ...details(record, words)] : told;
  return { line: isStale ? earlier(line, words("presence.stale")) : line, details: all, stopped: told };
}

/**
 * @param {Line} line
 * @param {string} when
 * @returns {Line} the line as one that holds no more
 */
function earlier(line, when) {
  const parts = [{ text: when }, ...line.parts];
  return { symbol: "◷", tone: "past", parts, short: (line.short ?? 1) + 1, text: parts.map((part) => part.text).join(" · ") };
}
