// @ts-check
// What a subgraph's face shows: how the OneDiff nodes inside are doing, the one that is worst off.

import { allNodes } from "../graph/walk.js";
import { worst } from "../status/worst.js";

/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */
/** @typedef {import("../graph/walk.js").WalkGraph} WalkGraph */
/** @typedef {import("../status/text.js").Line} Line */

/**
 * @template {WalkNode} N
 * @param {WalkGraph} root
 * @param {N[]} nodes OneDiff's
 * @param {(node: N, use: WalkNode) => Line} lineOf of a node in one use of its subgraph
 * @returns {Map<WalkNode, {node: N, line: Line}>} by the node that stands for a subgraph; without those of which
 *     nothing is known
 */
export function faces(root, nodes, lineOf) {
  /** @type {Map<WalkNode, {node: N, line: Line}>} */
  const found = new Map();
  for (const use of allNodes(root)) {
    if (!use.subgraph) continue;
    const within = new Set(allNodes(use.subgraph));
    const inside = nodes.filter((node) => within.has(node));
    const one = worst(inside, (node) => lineOf(node, use));
    const line = one && lineOf(one, use);
    if (one && line && line.tone !== "quiet") found.set(use, { node: one, line });
  }
  return found;
}

/** "OneDiff ▲ compiled · 1.62×" @param {Line} line */
export const faceText = ({ symbol, parts, short }) =>
  `OneDiff ${symbol} ${parts.slice(0, short ?? 1).map(({ text }) => text).join(" · ")}`;
