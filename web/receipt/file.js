// @ts-check
// Keeps receipts in the properties of the nodes on the canvas, and reads those that a file brought.

import { ROOM } from "../accelerate/room.js";
import { pace } from "../status/pace.js";
import { createOwn } from "./own.js";
import { readReceipt, shapeReceipt } from "./receipt.js";
import { amendStates, PROPERTY } from "./tracker.js";

/** @typedef {import("../status/address.js").Graph} Graph */
/** @typedef {import("../status/board.js").BoardNode & {properties?: Record<string, any>}} FileNode */

const PAUSE = 500;

/**
 * @param {Object} options
 * @param {() => [FileNode, import("../status/store.js").Entry | null][]} options.known
 * @param {() => Graph} options.root the root graph on the canvas
 * @param {() => import("./tracker.js").Tracker | null | undefined} options.tracker of the workflow on the canvas
 * @param {() => import("./receipt.js").ReceiptSetting} options.setting
 * @param {() => Storage} options.storage
 */
export function createReceipts({ known, root, tracker, setting, storage }) {
  const own = createOwn(storage);
  /** @type {WeakMap<object, import("./receipt.js").Receipt | null>} */
  const read = new WeakMap();
  let loading = false;

  /** @param {FileNode} node */
  function past(node) {
    const value = node.properties?.[PROPERTY];
    if (typeof value !== "object" || value === null) return null;
    let receipt = read.get(value);
    if (receipt === undefined) {
      receipt = readReceipt(value);
      read.set(value, receipt);
    }
    return receipt && { receipt, mine: own.has(receipt) };
  }

  /** Brings the nodes' properties up to date, as a part of what is there and not as a change to it. */
  function write() {
    const choice = setting();
    const written = [];
    for (const [node, entry] of known()) {
      const outcome = entry?.outcome ?? null;
      const receipt = outcome && shapeReceipt(outcome, choice);
      // Somebody else's stays until this machine has measured: then it no longer tells of this workflow.
      const erase = choice === "off" && (outcome ? past(node) : past(node)?.mine);
      if (!receipt && !erase) continue;
      node.properties ??= {};
      if (receipt) own.add(receipt);
      if (!receipt) delete node.properties[PROPERTY];
      else if (JSON.stringify(past(node)?.receipt) !== JSON.stringify(receipt)) node.properties[PROPERTY] = receipt;
      const graph = node.graph === root() ? null : node.graph?.id;
      written.push({ graph, node: node.id, receipt: node.properties[PROPERTY] });
    }
    if (written.length) amendStates(tracker(), root().id, written);
  }

  return {
    past,
    write,
    writeSoon: pace(write, PAUSE),

    /** @param {boolean} yes whether a workflow is being loaded: only then do nodes bring their receipts along */
    load: (yes) => (loading = yes),

    /** A copied node was not measured, and nothing gave way for it. @param {FileNode} node that was just filled */
    configured(node) {
      if (loading || !node.properties) return;
      delete node.properties[PROPERTY];
      delete node.properties[ROOM];
    },
  };
}
