// @ts-check
// The last steps with an axis, the medians and a legend.

import { duration } from "../status/format.js";
import { bars, ceiling, ticks } from "../status/steps.js";
import { barShapes, shape } from "../status/svg.js";
import { make } from "./make.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/steps.js").Step} Step */

const SIZE = { width: 560, height: 150, left: 62, top: 8 };

/**
 * @param {Step[]} shown
 * @param {{uncompiled: number | null, compiled: number | null}} medians in milliseconds
 * @param {Words} words
 */
export function plot(shown, medians, words) {
  const { width, height, left, top } = SIZE;
  const axis = ticks(Math.max(ceiling(shown), medians.uncompiled ?? 0, medians.compiled ?? 0));
  const full = axis[axis.length - 1] || 1;
  const at = (/** @type {number} */ ms) => top + height - (ms / full) * height;
  const svg = shape("svg", {
    class: "onediff-plot",
    viewBox: `0 0 ${left + width} ${top + height + 6}`,
    role: "img",
    "aria-label": spoken(shown, medians, words),
  });
  for (const ms of axis) {
    svg.append(shape("line", { x1: left, x2: left + width, y1: at(ms), y2: at(ms), class: "onediff-plot-grid" }));
    svg.append(
      shape("text", { x: left - 8, y: at(ms) + 4, class: "onediff-plot-tick" }, ms ? duration(words, ms) : "0"),
    );
  }
  const area = shape("g", { transform: `translate(${left} ${top})` });
  const slots = Math.max(12, shown.length);
  area.append(...barShapes(bars(shown, { width, height, slots, gap: 3, top: full })));
  svg.append(area);
  for (const [kind, ms] of Object.entries(medians)) {
    if (ms !== null)
      svg.append(
        shape("line", { x1: left, x2: left + width, y1: at(ms), y2: at(ms), class: `onediff-plot-median-${kind}` }),
      );
  }
  const figure = make("figure", "onediff-panel-plot");
  figure.append(svg, legend(shown, words));
  return figure;
}

/** @param {Step[]} shown @param {Words} words */
function legend(shown, words) {
  const caption = make("figcaption");
  const kinds = /** @type {const} */ (["uncompiled", "compiled", "compiling", "unknown"]);
  for (const kind of kinds.filter((one) => shown.some((step) => step.kind === one)))
    caption.append(key({ kind }, words(`plot.${kind}`)));
  if (shown.some(({ other }) => other)) caption.append(key({ kind: "compiled", other: true }, words("plot.other")));
  return caption;
}

/** @param {{kind: import("../status/steps.js").Kind, other?: boolean}} bar @param {string} says */
function key(bar, says) {
  const entry = make("span", "onediff-plot-key");
  const sample = shape("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" });
  sample.append(...barShapes([{ x: 2, y: 1, width: 8, height: 10, cut: false, ...bar }]));
  entry.append(sample, make("span", "", says));
  return entry;
}

/** @param {Step[]} shown @param {{uncompiled: number | null, compiled: number | null}} medians @param {Words} words */
function spoken(shown, { uncompiled, compiled }, words) {
  const none = words("plot.none");
  return words("plot.spoken", {
    count: shown.length,
    uncompiled: uncompiled === null ? none : duration(words, uncompiled),
    compiled: compiled === null ? none : duration(words, compiled),
  });
}
