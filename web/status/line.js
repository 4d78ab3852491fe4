// @ts-check
// The element that shows a status line.

/** @typedef {import("./text.js").Line} Line */

/** Height of the line in canvas units; the host takes it for the node's smallest size. */
export const LINE_HEIGHT = 20;

/**
 * @typedef {Object} StatusLine
 * @property {HTMLElement} element
 * @property {(line: Line, details: string[], label: string) => void} show
 */

/** @returns {StatusLine} */
export function createLine() {
  const element = document.createElement("div");
  element.className = "onediff-status";
  element.setAttribute("role", "status");
  element.setAttribute("aria-live", "polite");
  const shown = element.appendChild(span("onediff-status-line"));
  const symbol = shown.appendChild(span("onediff-status-symbol"));
  const words = shown.appendChild(span("onediff-status-words"));
  const spoken = element.appendChild(span("onediff-status-spoken"));
  shown.setAttribute("aria-hidden", "true");

  let last = "";
  return {
    element,
    show(line, details, label) {
      const title = [`${line.symbol} ${line.text}`, ...details].join("\n");
      if (title === last) return;
      last = title;
      element.dataset.tone = line.tone;
      element.title = title;
      element.setAttribute("aria-label", `${label}: ${line.text}`);
      symbol.textContent = line.symbol;
      words.replaceChildren(...line.parts.map(part));
      // While something is going on only its first words are read out: a voice cannot follow two updates a second.
      const aloud = line.tone === "live" ? line.parts[0]?.text.replace(/ \d.*$/, "") : line.text;
      if (spoken.textContent !== aloud) spoken.textContent = aloud ?? "";
    },
  };
}

/** @param {import("./text.js").Part} part */
function part({ text, elastic }) {
  const piece = span(elastic ? "onediff-status-part onediff-status-elastic" : "onediff-status-part");
  piece.textContent = text;
  return piece;
}

/** @param {string} className */
function span(className) {
  const made = document.createElement("span");
  made.className = className;
  return made;
}
