// @ts-check
// All status lines of the page: which node has which, and when they are written.

import { executionIds } from "./address.js";
import { details } from "./details.js";
import { pace } from "./pace.js";
import { isLive } from "./record.js";
import { describe } from "./text.js";

/** @typedef {import("./address.js").Graph} Graph */
/** @typedef {import("./address.js").GraphNode & {mode?: number}} BoardNode */

const PAUSE = 500;
const TICK = 1000;
const SWITCHED_OFF = new Set([2, 4]); // the host's modes "never" and "bypass"

/**
 * @param {Object} options
 * @param {ReturnType<typeof import("./store.js").createStore>} options.store
 * @param {() => import("../words.js").Words} options.words asked for at every writing, so that a change of language shows
 * @param {() => Graph} options.root the root graph on the canvas
 */
export function createBoard({ store, words, root }) {
  /** @type {Map<BoardNode, import("./line.js").StatusLine>} */
  const lines = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let tick;
  let connected = true;

  function write() {
    const graph = root();
    const say = words();
    let live = false;
    for (const [node, line] of lines) {
      const entry = store.find(String(graph.id), executionIds(graph, node));
      const record = entry?.record ?? null;
      live ||= isLive(record);
      const age = entry && connected ? store.age(entry) : 0;
      const bypassed = SWITCHED_OFF.has(node.mode ?? 0);
      line.show(describe(record, say, { bypassed, age }), details(record, say), say("status.label"));
    }
    clearTimeout(tick);
    if (live && connected) tick = setTimeout(refresh, TICK);
  }

  const refresh = pace(write, PAUSE);
  store.subscribe(refresh);

  return {
    refresh,

    /** @param {BoardNode} node @param {import("./line.js").StatusLine} line */
    add(node, line) {
      lines.set(node, line);
      refresh();
    },

    /** @param {BoardNode} node */
    remove(node) {
      lines.delete(node);
    },

    /**
     * Without the server nobody knows whether time still passes for it: the seconds stand still.
     * @param {boolean} yes
     */
    connect(yes) {
      connected = yes;
      refresh();
    },
  };
}
