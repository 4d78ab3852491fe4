// @ts-check
// All status lines of the page: which node has which, and when they are written.

import { executionIds } from "./address.js";
import { details } from "./details.js";
import { pace } from "./pace.js";
import { isLive, isNumber } from "./record.js";
import { steps } from "./steps.js";
import { describe } from "./text.js";

/** @typedef {import("../graph/walk.js").WalkGraph} Graph */
/** @typedef {import("../graph/walk.js").WalkNode} BoardNode */
/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * What is known about a node now.
 * @typedef {Object} View
 * @property {StatusRecord | null} record
 * @property {boolean} bypassed
 * @property {import("./text.js").Line} line
 * @property {string[]} details sentences, one a line
 */

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
  /** @type {Set<() => void>} */
  const watchers = new Set();

  /** @param {BoardNode} node @returns {View} */
  function look(node) {
    const graph = root();
    const entry = store.find(String(graph.id), executionIds(graph, node));
    const record = entry?.record ?? null;
    const age = entry && connected ? store.age(entry) : 0;
    const bypassed = SWITCHED_OFF.has(node.mode ?? 0);
    return { record, bypassed, line: describe(record, words(), { bypassed, age }), details: details(record, words()) };
  }

  function write() {
    const say = words();
    let live = false;
    for (const [node, line] of lines) {
      const { record, line: said, details } = look(node);
      live ||= isLive(record);
      const eager = record?.speed?.eager_ms;
      line.show({
        line: said,
        details: [...details, say("status.open")],
        label: say("status.label"),
        steps: steps(record),
        uncompiledMs: isNumber(eager) ? eager : null,
      });
    }
    for (const watcher of [...watchers]) watcher();
    clearTimeout(tick);
    if (live && connected) tick = setTimeout(refresh, TICK);
  }

  const refresh = pace(write, PAUSE);
  store.subscribe(refresh);

  return {
    refresh,
    look,
    nodes: () => [...lines.keys()],

    /**
     * @param {() => void} watcher called after every writing
     * @returns {() => void} ends it
     */
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },

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
