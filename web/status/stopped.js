// @ts-check
// A Forward Check that ended the run: what stands behind it did not run, whatever it showed before.

import { FORWARD_CHECK } from "../node_ids.js";
import { isLive } from "./record.js";

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
 * @returns {{title: string, stale: boolean} | null}
 */
export function stoppedBy(way, find, entry) {
  if (entry && isLive(entry.record)) return null;
  for (const node of way.slice(1)) {
    if (node.type !== FORWARD_CHECK || SWITCHED_OFF.has(node.mode ?? 0)) continue;
    const check = find(node);
    if (check?.record.state !== "failed") continue;
    // Measured after that, as only a node can that was connected otherwise then.
    if (entry?.record.measured_at && entry.order > check.order) continue;
    return { title: String(node.title || node.type), stale: check.stale };
  }
  return null;
}
