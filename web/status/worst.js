// @ts-check
// Which of several nodes is worst off: what a subgraph's face shows, and whose report opens when none was chosen.

import { COMPILE } from "../node_ids.js";

/** Worst first. */
const TONES = ["bad", "warn", "live", "plain", "good", "past", "quiet"];

/**
 * @template {{type?: string}} N
 * @param {N[]} nodes
 * @param {(node: N) => import("./text.js").Line} lineOf
 * @returns {N | null} of those that are as badly off, a Compile node; null when there is none
 */
export function worst(nodes, lineOf) {
  const rank = (/** @type {N} */ node) => 2 * TONES.indexOf(lineOf(node).tone) + Number(node.type !== COMPILE);
  const ranked = nodes.map((node) => ({ node, rank: rank(node) })).sort((a, b) => a.rank - b.rank);
  return ranked[0]?.node ?? null;
}
