// @ts-check
// The receipts as an extension of the host.

import { receiptSetting } from "../settings.js";
import { createReceipts } from "./file.js";

const SETTING = "OneDiff.Receipt";

/**
 * @param {Object} host
 * @param {any} host.api
 * @param {any} host.app
 * @param {ReturnType<typeof import("../status/store.js").createStore>} host.store
 * @param {() => ReturnType<typeof import("../status/board.js").createBoard>} host.board
 * @param {Set<string>} host.nodes classes of nodes that have a receipt
 */
export function createReceiptExtension({ api, app, store, board, nodes }) {
  const receipts = createReceipts({
    known: () => board().known(),
    root: () => app.rootGraph ?? app.graph,
    tracker: () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker,
    setting: () => app.extensionManager?.setting?.get(SETTING) ?? "on",
    storage: () => localStorage,
  });

  const extension = {
    name: SETTING,
    // The host calls this before it keeps the new value, and at the start before there is a graph.
    settings: [receiptSetting(() => setTimeout(() => app.rootGraph && receipts.write()))],

    setup() {
      store.subscribe(receipts.writeSoon);
      // Undo puts an older receipt back, after that the host compares.
      api.addEventListener("graphChanged", receipts.write);
      // A picture carries the workflow as it is queued.
      api.addEventListener("promptQueueing", receipts.write);
    },

    beforeConfigureGraph: () => receipts.load(true),

    afterConfigureGraph() {
      receipts.load(false);
      receipts.write();
    },

    nodeCreated(/** @type {any} */ node) {
      if (!nodes.has(node.comfyClass)) return;
      const { onConfigure } = node;
      node.onConfigure = function (/** @type {any[]} */ ...args) {
        receipts.configured(this);
        return onConfigure?.apply(this, args);
      };
    },
  };
  return { extension, past: receipts.past };
}
