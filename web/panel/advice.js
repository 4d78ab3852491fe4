// @ts-check
// What a person can do about a record, as one or two sentences.

import { gainsNothing } from "../status/attention.js";
import { findings, isLive, plain, stoppedAt, takenByOthers, takenSites, unusedBecause } from "../status/record.js";
import { gainsNowhere, isByChoice, isNoisy, isSlower, isUnclear } from "../status/verdict.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/record.js").StatusRecord} StatusRecord */

/**
 * @param {StatusRecord | null} record
 * @param {Words} words
 * @param {boolean} [bypassed]
 * @returns {string[]} never empty
 */
export function advice(record, words, bypassed = false) {
  const say = /** @type {Words} */ ((key, values) => words(`advice.${key}`, values));
  if (bypassed) return [say("bypassed")];
  if (record === null) return [say("never_ran")];
  if (record.held) return [say(record.held.cancelled ? "held_cancelled" : "held")];
  if (isLive(record)) return [say("wait")];
  const fixes = remedies(record);
  const because = unusedBecause(record);
  if (because) return [words(`unused.do_${because}`, { by: plain(record.unused?.by) }), ...fixes];
  const stopped = stoppedAt(record);
  if (stopped) return [say(stopped.beside ? "in_background" : "stopped"), ...fixes];
  if (record.not_finite) return [say("not_finite"), ...fixes];
  switch (record.state) {
    case "idle":
      return [record.backend?.replaced_by ? say("replaced") : say("never_ran")];
    case "failed":
      return fixes.length ? fixes : [say("failed")];
    case "compiled":
      if (isNoisy(record)) return [say("noisy")];
      if (isSlower(record)) return [say(record.speed?.kept ? "compiled_slower" : "still_timed")];
      return [say("nothing"), ...fixes];
    case "partial":
      if (isByChoice(record) && isSlower(record)) return [say("still_timed")];
      return [say(isByChoice(record) ? "by_choice" : "partial"), ...fixes];
    case "uncompiled":
      return uncompiled(record, say, fixes);
    default:
      if (takenByOthers(record)) return [words("unused.do_not_at_sites_by", takenSites(record) ?? {}), ...fixes];
      return fixes.length ? fixes : [say(gainsNothing(record) ? "no_gain" : "nothing")];
  }
}

/** @param {StatusRecord} record @param {Words} say @param {string[]} fixes */
function uncompiled(record, say, fixes) {
  if (gainsNowhere(record)) return [say("no_gain_here"), ...fixes];
  if (isUnclear(record)) return [say("unclear"), ...fixes];
  if (record.parity?.passed === false) return [say("differs"), ...fixes];
  if (isSlower(record)) return [say("slower"), ...fixes];
  if (!plain(record.backend?.used)) return [say("no_backend"), ...fixes];
  return fixes.length ? fixes : [say("uncompiled")];
}

/**
 * What the check says to do about errors and warnings, worst first, each once.
 * @param {StatusRecord} record
 */
export function remedies(record) {
  const worth = findings(record).filter(({ severity }) => severity === "error" || severity === "warning");
  const errors = worth.filter(({ severity }) => severity === "error");
  const ordered = [...errors, ...worth.filter((found) => !errors.includes(found))];
  // What only follows from an error is mended with it.
  const own = errors.length ? ordered.filter(({ rule }) => rule !== "processor-not-used") : ordered;
  const said = own.map(({ fix, class: name, path, where }) => {
    const line = /[^/\\]+:\d+$/.exec(plain(where))?.[0];
    const who = [plain(name) || plain(path), line && `(${line})`].filter(Boolean).join(" ");
    return plain(fix) && (who ? `${who}: ${plain(fix)}` : plain(fix));
  });
  return [...new Set(said.filter(Boolean))].slice(0, 3);
}
