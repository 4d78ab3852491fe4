// @ts-check
// Numbers as a person reads them.

/** @typedef {import("../words.js").Words} Words */

/**
 * A ratio: 1.618 → "1.62×", 12.34 → "12.3×".
 * @param {Words} words
 * @param {number} ratio
 */
export const factor = (words, ratio) => words("number.factor", { value: ratio.toFixed(ratio < 10 ? 2 : 1) });

/**
 * Time of one sampling step: 0.42 → "0.42 ms", 148.2 → "148 ms", 3914 → "3.91 s".
 * @param {Words} words
 * @param {number} ms
 */
export function duration(words, ms) {
  if (ms >= 1000) return words("number.seconds", { value: (ms / 1000).toFixed(ms < 10_000 ? 2 : 1) });
  return words("number.ms", { value: ms < 10 ? ms.toFixed(2) : String(Math.round(ms)) });
}

/**
 * Elapsed time: 12.7 → "12 s", 75 → "1 min 15 s".
 * @param {Words} words
 * @param {number} seconds
 */
export function elapsed(words, seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return words("number.seconds", { value: String(whole) });
  return words("number.minutes", { minutes: String(Math.floor(whole / 60)), seconds: String(whole % 60) });
}

/**
 * An error size: 0.00000123 → "1.2e-6", 0.05 → "0.05".
 * @param {number} value
 */
export const tiny = (value) =>
  value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(1) : String(+value.toPrecision(2));

/**
 * By how many per cent the uncompiled step is faster: 109 ms compiled against 100 ms → "9".
 * @param {number} uncompiledMs
 * @param {number} compiledMs
 */
export function percentFaster(uncompiledMs, compiledMs) {
  const percent = (compiledMs / uncompiledMs - 1) * 100;
  return percent < 1 ? percent.toFixed(1) : String(Math.round(percent));
}

/**
 * Parameters of a model: 859_520_964 → "860 M", 11_900_000_000 → "11.9 B".
 * @param {number} parameters
 */
export function millions(parameters) {
  if (parameters >= 1e9) return `${(parameters / 1e9).toFixed(1)} B`;
  return `${(parameters / 1e6).toFixed(parameters < 1e7 ? 1 : 0)} M`;
}

/**
 * A share in per cent: 0.0312 → "3", 0.0031 → "0.3".
 * @param {number} share
 */
export const percent = (share) => (share >= 0.01 ? String(Math.round(share * 100)) : String(+(share * 100).toPrecision(1)));
