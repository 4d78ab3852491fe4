// @ts-check
// Steps that leave blocks of the model out: the picture is another one, and how far such steps are off is said.

import { percent } from "./format.js";
import { isNumber, plain } from "./record.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * Puts "approximate, steps 3 % off" behind the state.
 * @param {import("./text.js").Draft} draft
 * @param {StatusRecord} record
 * @param {Words} words
 */
export function withApproximate(draft, { approximate }, words) {
  if (!approximate?.steps) return draft;
  const { off } = approximate;
  const said = isNumber(off) ? words("status.approximate_off", { value: percent(off) }) : words("status.approximate");
  return { ...draft, parts: [draft.parts[0], said, ...draft.parts.slice(1)], short: 2 };
}

/**
 * The same as sentences.
 * @param {StatusRecord} record
 * @param {Words} tell
 */
export function approximateDetails({ approximate }, tell) {
  if (!approximate?.steps) return [];
  const { by, off, steps, of } = approximate;
  const said = tell("approximate", { by: plain(by), steps, of });
  return isNumber(off) ? [said, tell("approximate_off", { value: percent(off) })] : [said];
}
