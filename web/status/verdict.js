// @ts-check
// What a record's figures mean: the server has decided it, the line and the report only ask.

import { count, isNumber } from "./record.js";

/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * Whether compiled steps are slower than uncompiled ones, by more than noise: the server decides what that is.
 * @param {{speed?: Record<string, any> | null}} record or receipt
 */
export const isSlower = ({ speed }) => speed?.verdict === "slower";

/** Whether compiling gained nothing but noise. @param {StatusRecord} record */
const isSame = ({ speed }) => speed?.verdict === "same";

/** Whether steps were compared, and differ by more among themselves than one way from the other. @param {StatusRecord} record */
export const isNotClearYet = ({ speed }) => speed?.verdict === null && isNumber(speed.pairs) && speed.pairs > 0;

/** Whether a speed report's steps differ by more among themselves than one way from the other. @param {StatusRecord} record */
export const isNoisy = ({ speed }) => speed?.noisy === true;

/**
 * Symbol, tone and words of compiled blocks: green only for a gain that was measured.
 * @param {StatusRecord} record
 * @returns {[string, "good" | "warn" | "plain", string]}
 */
export function markOfCompiled(record) {
  if (isSlower(record)) return ["▼", "warn", "compiled_slower"];
  if (isSame(record)) return ["=", "plain", "compiled_same"];
  return record.speed?.verdict === "faster" ? ["▲", "good", "compiled"] : ["✓", "plain", "compiled"];
}

/** Whether only blocks that gain nothing from compiling were left out. @param {StatusRecord} record */
export const isByChoice = ({ state, compile }) =>
  state === "partial" &&
  !compile?.stopped &&
  compile?.regions_without_gain === count(compile?.regions_uncompiled);

/** Whether that is true of all blocks. @param {StatusRecord} record */
export const gainsNowhere = ({ state, compile }) =>
  state === "uncompiled" && compile?.regions_without_gain > 0 && compile?.regions_without_gain === count(compile?.regions);

/**
 * Whether steps were timed both ways, and uncompiled ones are kept although they were not clearly faster.
 * @param {StatusRecord} record
 */
export const isUnclear = ({ speed }) =>
  speed?.kept === "uncompiled" && (speed.clear === false || ["same", "faster"].includes(speed.verdict));
