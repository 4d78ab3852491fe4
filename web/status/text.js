// @ts-check
// A record as one line: a symbol and a few words, the most telling first.

import { withApproximate } from "./approximate.js";
import { isUndecided, leftAsItWas, patchParts, processorsOf, together } from "./attention.js";
import { duration, elapsed, factor } from "./format.js";
import {
  count,
  findings,
  isLive,
  isNumber,
  packsInside,
  plain,
  problems,
  rejectedProcessor,
  stoppedAt,
  takenByOthers,
  tookPart,
  unitOf,
  unusedBecause,
} from "./record.js";
import { reason, uncompiled } from "./uncompiled.js";
import { isByChoice, isNoisy, isNotClearYet, markOfCompiled } from "./verdict.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * A piece of the line. Pieces that do not fit are left out from the end; an elastic one may be shortened instead.
 * @typedef {Object} Part
 * @property {string} text
 * @property {boolean} [elastic]
 */

/**
 * @typedef {Object} Line
 * @property {string} symbol tells the states apart without colour
 * @property {"quiet" | "past" | "plain" | "live" | "good" | "warn" | "bad"} tone
 * @property {Part[]} parts
 * @property {number} [short] how many of the parts the short line shows, 1 when left out
 * @property {string} text the parts as one sentence, without the symbol
 */

/** @typedef {{symbol: string, tone: Line["tone"], parts: (Part | string | null)[], short?: number}} Draft */

/**
 * @param {StatusRecord | null} record null: nothing known about this node
 * @param {Words} words
 * @param {{bypassed?: boolean, age?: number}} [at] age: seconds since the record arrived
 * @returns {Line}
 */
export function describe(record, words, { bypassed = false, age = 0 } = {}) {
  const draft = bypassed
    ? quiet("bypassed", words)
    : record === null
      ? quiet("idle", words)
      : drafted(record, words, age);
  const parts = draft.parts
    .map((part) => (typeof part === "string" ? { text: part } : part))
    .filter((part) => part !== null && part.text !== "");
  const shown = /** @type {Part[]} */ (parts);
  return { ...draft, parts: shown, text: shown.map((part) => part.text).join(" · ") };
}

/** @param {string} state @param {Words} words @returns {Draft} */
const quiet = (state, words) => ({
  symbol: state === "bypassed" ? "–" : "○",
  tone: "quiet",
  parts: [words(`status.${state}`)],
});

/** @param {StatusRecord} record @param {Words} words @param {number} age @returns {Draft} */
function drafted(record, words, age) {
  if (record.held) return held(record, words, age);
  if (isLive(record)) return live(record, words, age);
  if (unusedBecause(record)) return unused(record, words);
  if (stoppedAt(record)) return stopped(record, words);
  const [part, draft] = [tookPart(record), withApproximate(outcome(record, words), record, words)];
  if (record.not_finite) return { symbol: "✗", tone: "bad", parts: [words("status.not_finite"), ...draft.parts] };
  return part ? { symbol: "◐", tone: "warn", parts: [words("status.took_part", part), ...draft.parts] } : draft;
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function outcome(record, words) {
  switch (record.state) {
    case "patched":
      return patched(record, words);
    case "checked":
      return checked(record, words);
    case "compiled":
      return compiled(record, words);
    case "partial":
      if (isByChoice(record)) return compiled(record, words);
      return {
        symbol: "◐",
        tone: "warn",
        parts: [
          words("status.partial") + ofAll(record),
          ...speed(record, words),
          inside(record, words),
          plain(record.backend?.used),
        ],
        short: 2,
      };
    case "uncompiled":
      return uncompiled(record, words);
    case "failed":
      return {
        symbol: "✗",
        tone: "bad",
        parts: [words("status.failed"), { text: worstFinding(record) || reason(record, words), elastic: true }],
      };
    case "idle":
      if (record.backend?.replaced_by) return quiet("replaced", words);
      if (record.compile && unitOf(record) === "run") return quiet("waiting_for_use", words);
      return quiet(record.compile ? "waiting" : "idle", words);
    default:
      // A state of a newer server: its own words are better than none.
      return {
        symbol: "○",
        tone: "quiet",
        parts: [{ text: plain(record.summary) || plain(record.state), elastic: true }],
      };
  }
}

/** @param {StatusRecord} record @param {Words} words @param {number} age @returns {Draft} */
function live(record, words, age) {
  const { done, total, path, seconds } = record.progress ?? {};
  const isBeside = record.state === "measuring" && record.compile?.stopped?.beside === true;
  const of = isNumber(done) && isNumber(total) && total > 0 ? ` ${done}/${total}` : "";
  const time = isNumber(seconds) && seconds + age >= 1 ? elapsed(words, seconds + age) : "";
  return {
    symbol: "…",
    tone: "live",
    parts: [words(`status.${isBeside ? "in_background" : record.state}`) + of, time, { text: plain(path), elastic: true }],
  };
}

/** A call that has not returned. @param {StatusRecord} record @param {Words} words @param {number} age @returns {Draft} */
function held(record, words, age) {
  const { where, seconds, cancelled } = record.held ?? {};
  return {
    symbol: "…",
    tone: "warn",
    parts: [
      words(cancelled ? "status.held_cancelled" : "status.held"),
      isNumber(seconds) ? elapsed(words, seconds + age) : null,
      {
        text: words(cancelled ? "status.held_at_cancelled" : "status.held_at", { where: plain(where) }),
        elastic: true,
      },
    ],
  };
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function unused(record, words) {
  const because = unusedBecause(record);
  const isLeftOut = because === "not_sampled" || because === "not_used";
  const why = words(`unused.${because}`, { by: plain(record.unused?.by) });
  const text = words(isLeftOut ? "status.not_used" : "status.no_effect", { why });
  return { symbol: "▽", tone: isLeftOut ? "plain" : "warn", parts: [{ text, elastic: true }] };
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function stopped(record, words) {
  const { done, total, beside } = stoppedAt(record) ?? { done: 0, total: 0, beside: false };
  if (beside) {
    return { symbol: "◐", tone: "plain", parts: [words("status.in_background"), words("status.from_next_run")] };
  }
  const at = total > 0 ? words("status.stopped_at", { done, total }) : words("status.stopped_early");
  return { symbol: "◐", tone: "plain", parts: [at, { text: words("status.goes_on"), elastic: true }] };
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function compiled(record, words) {
  const [symbol, tone, key] = markOfCompiled(record);
  return {
    symbol,
    tone,
    parts: [
      words(`status.${key}`) + (key === "compiled" && isByChoice(record) ? ofAll(record) : ""),
      ...speed(record, words),
      inside(record, words),
      plain(record.backend?.used),
    ],
    short: 2,
  };
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function patched(record, words) {
  const patch = patchParts(record, words);
  const processors = processorsOf(record);
  const rejected = rejectedProcessor(record);
  if (rejected) {
    const instead = processors.length ? words("status.instead", { processor: processors.join(", ") }) : "";
    const why = [rejected.what, instead, rejected.where].filter(Boolean).join(" · ");
    return { symbol: "✗", tone: "bad", parts: [words("status.rejected", rejected), { text: why, elastic: true }] };
  }
  const trouble = troubles(record, words);
  if (trouble) return { ...trouble, parts: [troubleCounts(record, words), patch[1] ?? patch[0]] };
  if (isUndecided(record)) return { symbol: "○", tone: "plain", parts: patch };
  if (leftAsItWas(record)) return { symbol: "=", tone: "plain", parts: patch };
  if (takenByOthers(record)) return { symbol: "◐", tone: "warn", parts: patch, short: 2 };
  return processors.length
    ? { symbol: "✓", tone: "good", parts: patch, short: 2 }
    : { symbol: "!", tone: "warn", parts: patch };
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft} */
function checked(record, words) {
  const trouble = troubles(record, words);
  if (trouble) return trouble;
  const modules = count(record.check?.modules);
  const seen = modules === null ? null : words("status.modules", { count: modules });
  return { symbol: "✓", tone: "good", parts: [words("status.no_problems"), seen] };
}

/**
 * "2 errors, 1 warning"; empty where the check found nothing worse than a note.
 * @param {StatusRecord} record @param {Words} words
 */
export function troubleCounts(record, words) {
  const errors = problems(record, "error");
  const warnings = problems(record, "warning");
  const counts = [
    errors && words("status.errors", { count: errors }),
    warnings && words("status.warnings", { count: warnings }),
  ];
  return counts.filter(Boolean).join(words("status.and"));
}

/** @param {StatusRecord} record @param {Words} words @returns {Draft | null} null: nothing worse than a note */
function troubles(record, words) {
  const counts = troubleCounts(record, words);
  if (!counts) return null;
  const errors = problems(record, "error");
  return {
    symbol: errors ? "✗" : "!",
    tone: errors ? "bad" : "warn",
    parts: [{ text: [worstFinding(record), counts].filter(Boolean).join(" · "), elastic: true }],
  };
}

/**
 * "AttnProcessor: has no forward"; empty where the check found nothing worse than a note.
 * @param {StatusRecord} record
 */
function worstFinding(record) {
  const severity = problems(record, "error") ? "error" : "warning";
  const worst = findings(record).find((found) => found.severity === severity);
  return [plain(worst?.class) || plain(worst?.path), plain(worst?.what)].filter(Boolean).join(": ");
}

/** @param {StatusRecord} record @param {Words} words */
function speed(record, words) {
  const { speedup, compiled_ms: step, pairs } = record.speed ?? {};
  const ratio = isNumber(speedup) ? factor(words, speedup) : null;
  const unclear = isNoisy(record)
    ? words("status.noisy")
    : isNotClearYet(record)
      ? words("status.not_clear_yet", { count: pairs })
      : null;
  const all = together(record, words);
  return [
    ...(all.length ? all : [unclear ? null : ratio]),
    unclear,
    isNumber(step) ? words(`status.a_compiled_${unitOf(record)}`, { time: duration(words, step) }) : null,
  ];
}

/** "with attention from KJNodes": packs whose code runs inside compiled blocks. @param {StatusRecord} record @param {Words} words */
function inside(record, words) {
  const packs = packsInside(record);
  return packs.length ? words("status.attention_from", { packs: packs.join(words("status.and")) }) : null;
}

/** " 36/38": how many of the blocks are compiled. @param {StatusRecord} record */
function ofAll(record) {
  const total = count(record.compile?.regions);
  const done = count(record.compile?.regions_compiled);
  return total !== null && done !== null ? ` ${done}/${total}` : "";
}
