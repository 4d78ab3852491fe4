// @ts-check
// Marks above nodes of the host: samplers whose model OneDiff Compile could not speed up, and subgraphs with OneDiff
// nodes inside. Nothing is written into the nodes' properties.

import { samplersOf } from "./graph/walk.js";
import { COMPILING } from "./migration/table.js";
import { COMPILE } from "./node_ids.js";

/** @typedef {import("./graph/walk.js").WalkNode} WalkNode */
/** @typedef {{record: import("./status/record.js").StatusRecord | null, bypassed: boolean}} Look */

const compiles = (/** @type {WalkNode} */ { type }) => type === COMPILE || COMPILING.has(String(type));

const TELLING = new Set(["uncompiled", "failed"]);

/**
 * The samplers that run an uncompiled model although a Compile node stands before them.
 * @template {WalkNode} N
 * @param {import("./graph/walk.js").WalkGraph} root
 * @param {N[]} nodes OneDiff's
 * @param {(node: N) => Look} look
 * @returns {Map<WalkNode, {node: N, state: "uncompiled" | "failed"}>} with the Compile node of each
 */
export function samplersToMark(root, nodes, look) {
  /** @type {Map<WalkNode, {node: N, state: "uncompiled" | "failed"}>} */
  const marked = new Map();
  for (const node of nodes) {
    const { record, bypassed } = look(node);
    if (bypassed || !compiles(node) || !record || !TELLING.has(record.state)) continue;
    // What uncompiled steps were faster than is no loss.
    if (record.state === "uncompiled" && record.speed?.kept === "uncompiled" && record.parity?.passed !== false)
      continue;
    const later = (/** @type {WalkNode} */ other) => compiles(other) && (other.mode ?? 0) === 0;
    for (const sampler of samplersOf(root, node, later))
      marked.set(sampler, { node, state: /** @type {"uncompiled" | "failed"} */ (record.state) });
  }
  return marked;
}

/**
 * @typedef {Object} Mark
 * @property {string} text
 * @property {import("./status/text.js").Line["tone"]} tone
 * @property {() => void} open what a click does
 */

const COLORS = { good: "#166534", bad: "#991b1b", warn: "#92400e", live: "#1e40af" };

/** White text is readable on it. @param {Mark["tone"]} tone */
const colorOf = (tone) => COLORS[/** @type {keyof typeof COLORS} */ (tone)] ?? "#374151";

/**
 * Draws the marks. In the classic renderer a mark is a badge above the node, which the canvas asks for at every draw;
 * in Nodes 2.0 badges do not change, there it is a rule of a style sheet for the node's element. Neither of them can be
 * clicked, so clicks above the node are looked for.
 * @param {Object} host
 * @param {() => any} host.canvas
 * @param {() => boolean} host.classic
 * @param {(options: {text: string, fgColor: string, bgColor: string}) => any} host.badge
 */
export function createMarks({ canvas, classic, badge }) {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  /** @type {Map<any, {text: string, tone: Mark["tone"], badge: () => any}>} */
  const shown = new Map();
  let rules = "";
  /** @type {Map<any, Mark>} */
  let marked = new Map();

  /** The marked node above which a click was. @param {MouseEvent} event */
  const under = (event) => {
    const here = [...marked.keys()].filter((node) => node.graph === canvas().graph);
    if (!classic()) {
      const element = /** @type {Element} */ (event.target).closest(".lg-node");
      if (!element || event.clientY > element.getBoundingClientRect().top) return null;
      return here.find((node) => String(node.id) === element.getAttribute("data-node-id")) ?? null;
    }
    if (event.target !== canvas().canvas) return null;
    const [x, y] = canvas().convertEventToCanvasOffset(event);
    return here.find((node) => isAbove(node, x, y)) ?? null;
  };
  onClick((event) => marked.get(under(event))?.open());

  const marks = {
    clear: () => marks.show(new Map()),

    /** @param {Map<any, Mark>} wantedMarks by node; nodes that are not in it lose their mark */
    show(wantedMarks) {
      marked = wantedMarks;
      let changed = false;
      for (const [node, mark] of shown) {
        const same = wantedMarks.get(node);
        if (classic() && same?.text === mark.text && same.tone === mark.tone) continue;
        const index = node.badges?.indexOf(mark.badge) ?? -1;
        if (index >= 0) node.badges.splice(index, 1);
        shown.delete(node);
        changed = true;
      }
      for (const [node, { text, tone }] of classic() ? wantedMarks : []) {
        if (shown.has(node) || !Array.isArray(node.badges)) continue;
        const made = badge({ text, fgColor: "#ffffff", bgColor: colorOf(tone) });
        const mark = { text, tone, badge: () => made };
        node.badges.push(mark.badge);
        shown.set(node, mark);
        changed = true;
      }
      const wanted = [...(classic() ? [] : wantedMarks)]
        .filter(([node]) => node.graph === canvas().graph)
        .map(([node, mark]) => rule(node.id, mark))
        .join("\n");
      if (wanted !== rules) {
        rules = wanted;
        sheet.replaceSync(wanted);
      }
      if (changed) canvas().setDirty(true, true);
    },
  };
  return marks;
}

const TITLE = 30;
const BADGE = 26;
const LETTER = 7;
const PADDING = 16;

/**
 * Whether a point of the graph is where the canvas draws the badges of a node: up to its right edge, and as far to the
 * left of it as they need.
 * @param {any} node @param {number} x @param {number} y
 */
const isAbove = ({ pos, size, badges }, x, y) => {
  const texts = (badges ?? []).map((/** @type {any} */ badge) => (typeof badge === "function" ? badge() : badge)?.text ?? "");
  const width = Math.max(size[0], texts.join("").length * LETTER + texts.length * PADDING);
  const right = pos[0] + size[0];
  return x >= right - width && x <= right && y <= pos[1] - TITLE && y >= pos[1] - TITLE - BADGE;
};

const STILL = 4;

/** Calls back for clicks anywhere that are not the end of a drag. @param {(event: MouseEvent) => void} then */
function onClick(then) {
  let [x, y] = [0, 0];
  const began = (/** @type {MouseEvent} */ event) => ([x, y] = [event.clientX, event.clientY]);
  document.addEventListener("pointerdown", began, { capture: true });
  document.addEventListener("click", (event) => {
    if (Math.hypot(event.clientX - x, event.clientY - y) < STILL) then(event);
  });
}

const LOOK =
  "position: absolute; right: 0; bottom: 100%; margin-bottom: 2px; padding: 0 6px; border-radius: 5px;" +
  "color: #fff; font: 12px/20px Inter, Arial, sans-serif; white-space: nowrap; cursor: pointer;";

/** For the marked node alone: the host's other nodes keep their looks. @param {unknown} id @param {Mark} mark */
const rule = (id, { text, tone }) =>
  `.lg-node[data-node-id="${CSS.escape(String(id))}"]::before ` +
  `{ content: "${CSS.escape(text)}"; background: ${colorOf(tone)}; ${LOOK} }`;
