// @ts-check
// The last steps of a record, and the geometry of their plots. No DOM in here.

import { isNumber, list, unitOf } from "./record.js";

/** @typedef {import("./record.js").StatusRecord} StatusRecord */
/** @typedef {"compiled" | "uncompiled" | "compiling" | "unknown"} Kind compiling: blocks were compiled meanwhile */
/** @typedef {{ms: number, kind: Kind, other?: boolean}} Step other: of another size than the last one */
/** @typedef {{x: number, y: number, width: number, height: number, kind: Kind, cut: boolean, other?: boolean}} Bar */

const KINDS = new Set(["compiled", "uncompiled", "compiling"]);

/** As many as the server keeps. */
export const MOST_STEPS = 40;

/**
 * The last steps, oldest first. A server that sends times alone leaves their kind unknown.
 * @param {StatusRecord | null} record
 * @returns {Step[]}
 */
export function steps(record) {
  const kinds = list(record?.speed?.steps_kind);
  if (record && unitOf(record) === "run") return []; // nothing has room for them
  const times = list(record?.speed?.steps_ms);
  const sizes = list(record?.speed?.steps_size);
  const last = sizes[times.length - 1];
  return times
    .map((ms, index) => ({
      ms,
      kind: KINDS.has(kinds[index]) ? kinds[index] : "unknown",
      ...(sizes[index] === last ? {} : { other: true }),
    }))
    .filter(({ ms }) => isNumber(ms) && ms >= 0)
    .slice(-MOST_STEPS);
}

/**
 * The largest time that a plot must show. Steps that compiled take a thousand times as long as the others, which would
 * all become dots: they are cut off, unless there are no others. So are those of another size.
 * @param {Step[]} shown
 */
export function ceiling(shown) {
  const told = shown.filter(({ kind, other }) => kind !== "compiling" && !other);
  const regular = (told.length ? told : shown).map(({ ms }) => ms).sort((a, b) => a - b);
  if (!regular.length) return 0;
  // The first step of all warms up, and one step may be disturbed: what is far from the middle is cut off too.
  const middle = regular[Math.floor((regular.length - 1) / 2)];
  return Math.min(regular[regular.length - 1], middle * 3);
}

/**
 * One bar a step, the newest at the right edge, the plot filled from the right.
 * @param {Step[]} shown
 * @param {{width: number, height: number, slots?: number, gap?: number, top?: number}} size top: the time of the full
 *   height in milliseconds; the largest shown when left out
 * @returns {Bar[]}
 */
export function bars(shown, { width, height, slots = MOST_STEPS, gap = 1, top = ceiling(shown) }) {
  const last = shown.slice(-slots);
  const slot = width / slots;
  return last.map(({ ms, kind, other }, index) => {
    const tall = top > 0 ? Math.max(1, Math.min(1, ms / top) * height) : 1;
    return {
      x: width - (last.length - index) * slot + gap / 2,
      y: height - tall,
      width: slot - gap,
      height: tall,
      kind,
      cut: ms > top,
      ...(other ? { other } : {}),
    };
  });
}

/**
 * Round numbers for an axis from zero: ticks(148) → [0, 50, 100, 150].
 * @param {number} top
 * @param {number} [about] how many
 * @returns {number[]} the last one is at least `top`
 */
export function ticks(top, about = 3) {
  if (!(top > 0) || !Number.isFinite(top)) return [0];
  const raw = top / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999) ?? raw;
  return Array.from({ length: Math.ceil((top / step) * 0.999) + 1 }, (_, index) => +(index * step).toPrecision(12));
}
