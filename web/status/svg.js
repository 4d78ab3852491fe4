// @ts-check
// Plots of steps as inline SVG. Compiled steps are filled bars, uncompiled ones hollow, steps that compiled are hatched
// lines, so that they differ without colour. Those of another size than the last are pale.

import { bars, ceiling } from "./steps.js";

/** @typedef {import("./steps.js").Step} Step */

const SVG = "http://www.w3.org/2000/svg";
const SPARK = { width: 200, height: 10 };
// So many at least share the width, so that the first ones are no wide blocks.
const FEWEST_SLOTS = 20;

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
export function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Bars of steps as SVG shapes.
 * @param {import("./steps.js").Bar[]} drawn
 */
export const barShapes = (drawn) =>
  drawn.map(({ x, y, width, height, kind, cut, other }) => {
    const inset = kind === "uncompiled" || kind === "unknown" ? 0.5 : 0;
    return shape("rect", {
      x: x + inset,
      y: y + inset,
      width: Math.max(width - 2 * inset, 0.5),
      height: Math.max(height - inset, 0.5),
      class: `onediff-bar onediff-bar-${kind}${cut ? " onediff-bar-cut" : ""}${other ? " onediff-bar-other" : ""}`,
    });
  });

/**
 * Draws the thin plot of the status line into an SVG element, in place of what was there.
 * @param {SVGElement} svg
 * @param {Step[]} shown
 * @param {number | null} uncompiledMs what an uncompiled step takes, as a line to compare with
 */
export function drawSpark(svg, shown, uncompiledMs) {
  const { width, height } = SPARK;
  const top = Math.max(ceiling(shown), shown.length ? (uncompiledMs ?? 0) : 0);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const marks = barShapes(bars(shown, { ...SPARK, slots: Math.max(FEWEST_SLOTS, shown.length), top }));
  if (top > 0 && uncompiledMs) {
    const y = Math.max(0.5, height - (uncompiledMs / top) * height);
    marks.push(shape("line", { x1: 0, x2: width, y1: y, y2: y, class: "onediff-spark-uncompiled" }));
  }
  if (shown.length)
    marks.push(shape("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, class: "onediff-spark-base" }));
  svg.replaceChildren(...marks);
}

/** @returns {SVGElement} */
export const createSpark = () => shape("svg", { class: "onediff-spark", "aria-hidden": "true", focusable: "false" });
