// @ts-check
// The element that shows a status line: a button with a symbol and a few words, and the last steps below it.

import { createSpark, drawSpark } from "./svg.js";

/** @typedef {import("./text.js").Line} Line */
/** @typedef {"full" | "short" | "none"} Display */

// Two rows of words, so that a reason is readable at the smallest width of a node; the short line has one.
const WORDS_HEIGHT = { full: 36, short: 18, none: 0 };
const STEPS_HEIGHT = 12;

/**
 * @typedef {Object} Shown
 * @property {Line} line
 * @property {string[]} details what the tooltip says below the line
 * @property {string} label what the line is, for a screen reader
 * @property {import("./steps.js").Step[]} [steps]
 * @property {number | null} [uncompiledMs]
 */

/**
 * @typedef {Object} StatusLine
 * @property {HTMLElement} element
 * @property {(shown: Shown) => void} show
 * @property {(display: Display) => void} display
 * @property {(yes: boolean) => void} far shows the symbol alone, as large as the line
 * @property {() => number} height in canvas units; the host takes it for the node's smallest size
 */

/**
 * @param {{steps?: boolean}} [options] steps: this node samples, so that there is room for a plot of its steps
 * @returns {StatusLine}
 */
export function createLine({ steps: hasSteps = false } = {}) {
  const element = document.createElement("div");
  element.className = "onediff-status";
  element.dataset.display = "full";
  const button = element.appendChild(document.createElement("button"));
  button.type = "button";
  button.className = "onediff-status-line";
  button.setAttribute("aria-haspopup", "dialog");
  const symbol = button.appendChild(span("onediff-status-symbol"));
  const words = button.appendChild(span("onediff-status-words"));
  const spark = hasSteps ? element.appendChild(createSpark()) : null;
  const spoken = element.appendChild(span("onediff-status-spoken"));
  spoken.setAttribute("role", "status");
  spoken.setAttribute("aria-live", "polite");

  /** @type {Display} */
  let display = "full";
  /** @type {Shown | null} */
  let current = null;
  let written = "";
  let drawn = "";

  function write() {
    if (current === null || display === "none") return;
    const { line, details, label, steps = [], uncompiledMs = null } = current;
    const title = [`${line.symbol} ${line.text}`, ...details].join("\n");
    if (title + display !== written) {
      written = title + display;
      element.dataset.tone = line.tone;
      element.title = title;
      button.setAttribute("aria-label", `${label}: ${line.text}`);
      symbol.textContent = line.symbol;
      words.replaceChildren(...(display === "short" ? line.parts.slice(0, line.short ?? 1) : line.parts).flatMap(part));
      // While something is going on only its first words are read out: a voice cannot follow two updates a second.
      const aloud = line.tone === "live" ? line.parts[0]?.text.replace(/ \d.*$/, "") : line.text;
      if (spoken.textContent !== aloud) spoken.textContent = aloud ?? "";
    }
    const plot = JSON.stringify([steps, uncompiledMs]);
    if (spark && display === "full" && plot !== drawn) {
      drawn = plot;
      drawSpark(spark, steps, uncompiledMs);
    }
  }

  return {
    element,
    show(shown) {
      current = shown;
      write();
    },
    display(wanted) {
      display = wanted;
      element.dataset.display = wanted;
      write();
    },
    far(yes) {
      if (yes !== element.hasAttribute("data-far")) element.toggleAttribute("data-far", yes);
    },
    height: () => WORDS_HEIGHT[display] + (spark && display === "full" ? STEPS_HEIGHT : 0),
  };
}

/** With a space before it, where the row may end. @param {import("./text.js").Part} part @param {number} index */
function part({ text, elastic }, index) {
  const piece = span(elastic ? "onediff-status-part onediff-status-elastic" : "onediff-status-part");
  piece.textContent = text;
  return index ? [" ", piece] : [piece];
}

/** @param {string} className */
function span(className) {
  const made = document.createElement("span");
  made.className = className;
  return made;
}
