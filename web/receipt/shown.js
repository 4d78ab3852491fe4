// @ts-check
// What a node shows: this server's record, one from before its restart, or the receipt of the workflow file.

import { details } from "../status/details.js";
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
 */

/**
 * @param {Known} known
 * @param {Words} words
 * @returns {{line: Line, details: string[]}}
 */
export function shown({ entry, past, bypassed, age }, words) {
  const record = entry?.record ?? null;
  // While the sampler is waited for, the author's figures are still the only ones there are.
  if (past && !bypassed && (record === null || (record.state === "idle" && !past.mine))) {
    const { receipt, mine } = past;
    return { line: describeReceipt(receipt, words, mine), details: receiptDetails(receipt, words, mine, details) };
  }
  const line = describe(record, words, { bypassed, age });
  if (!entry?.stale || bypassed) return { line, details: details(record, words) };
  return { line: stale(line, words), details: [words("presence.stale_details"), ...details(record, words)] };
}

/**
 * @param {Line} line
 * @param {Words} words
 * @returns {Line}
 */
function stale(line, words) {
  const parts = [{ text: words("presence.stale") }, ...line.parts];
  return { symbol: "◷", tone: "past", parts, short: (line.short ?? 1) + 1, text: parts.map((part) => part.text).join(" · ") };
}
