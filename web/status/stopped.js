// @ts-check
// What a node in front did to this one: a Forward Check that ended the run, so that what stands behind it did not run,
// whatever it showed before; a patch that did not take its processor.

import { FORWARD_CHECK } from "../node_ids.js";
import { findings, isLive, rejectedProcessor } from "./record.js";

/** @typedef {import("../graph/walk.js").WalkNode} WalkNode */
/** @typedef {import("./store.js").Entry} Entry */

/** The host's modes "never" and "bypass". */
export const SWITCHED_OFF = new Set([2, 4]);

/**
 * The check that stopped the last run before it came to this node; null when none did. A check fails only where it
 * stops the run, and runs anew each time: while its last word is "failed", nothing behind it has run.
 * @param {WalkNode[]} way the nodes that the model passed, this one first
 * @param {(node: WalkNode) => Entry | null} find
 * @param {Entry | null} entry what is known of this node
 * @returns {{title: string, stale: boolean, node: WalkNode} | null}
 */
export function stoppedBy(way, find, entry) {
  if (entry && isLive(entry.record)) return null;
  for (const node of way.slice(1)) {
    if (node.type !== FORWARD_CHECK || SWITCHED_OFF.has(node.mode ?? 0)) continue;
    const check = find(node);
    if (check?.record.state !== "failed") continue;
    // Measured after that, as only a node can that was connected otherwise then.
    if (entry?.record.measured_at && entry.order > check.order) continue;
    return { title: String(node.title || node.type), stale: check.stale, node };
  }
  return null;
}

/**
 * The node in front that did not take its processor, where a check found that it is not in the model.
 * @param {WalkNode[]} way the nodes that the model passed, this one first
 * @param {(node: WalkNode) => Entry | null} find
 * @param {import("./record.js").StatusRecord | null} record of this node
 * @returns {WalkNode | null}
 */
export function rejecting(way, find, record) {
  if (!record || !findings(record).some(({ rule }) => rule === "processor-not-used")) return null;
  const rejects = (/** @type {WalkNode} */ node) => {
    const other = find(node)?.record;
    return other ? rejectedProcessor(other) !== null : false;
  };
  return way.slice(1).find(rejects) ?? null;
}
