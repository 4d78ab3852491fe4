// @ts-check
// All status lines of the page: which node has which, and when they are written.

import { wayOf } from "../graph/walk.js";
import { shown } from "../receipt/shown.js";
import { executionIds } from "./address.js";
import { pace } from "./pace.js";
import { changedSince } from "./changed.js";
import { isLive, isNumber } from "./record.js";
import { steps } from "./steps.js";
import { rejecting, stoppedBy, SWITCHED_OFF } from "./stopped.js";

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
 * @property {string[]} [stopped] why it did not run in the last run, and what to do; left out when it did
 * @property {BoardNode | null} elsewhere the node in front whose report says what to do
 */

const PAUSE = 500;
const TICK = 1000;
/** Milliseconds in which a node that was taken out may come back inside a subgraph. */
const MOVING = 3000;

/** @param {BoardNode} node */
const nameOf = (node) => `${node.type} ${node.id}`;

/**
 * @param {Object} options
 * @param {ReturnType<typeof import("./store.js").createStore>} options.store
 * @param {() => import("../words.js").Words} options.words asked for at every writing, so that a change of language shows
 * @param {() => Graph} options.root the root graph on the canvas
 * @param {(node: BoardNode) => import("../receipt/shown.js").Known["past"]} [options.past] what the file says of a node
 * @param {(node: BoardNode) => string | null} [options.entered] which use of its subgraph is open, as an execution id
 */
export function createBoard({ store, words, root, past = () => null, entered = () => null }) {
  /** @type {Map<BoardNode, import("./line.js").StatusLine>} */
  const lines = new Map();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let tick;
  let connected = true;
  /** @type {Set<BoardNode>} */
  const fresh = new Set();
  /** @type {WeakMap<BoardNode, import("./store.js").Entry>} */
  const last = new WeakMap();
  /** Nodes that were taken out a moment ago, by type and id: @type {Map<string, import("./store.js").Entry>} */
  const left = new Map();
  /** @type {Set<() => void>} */
  const watchers = new Set();

  /** @param {BoardNode} node @param {BoardNode} [use] of a subgraph that holds the node */
  function newest(node, use) {
    const graph = root();
    const ids = executionIds(graph, node);
    if (use) {
      const doors = executionIds(graph, use).map((id) => `${id}:`);
      return store.find(
        String(graph.id),
        ids.filter((id) => doors.some((door) => id.startsWith(door))),
      );
    }
    const open = entered(node);
    return store.find(String(graph.id), open !== null && ids.includes(open) ? [open] : ids);
  }

  /**
   * @param {BoardNode} node
   * @param {BoardNode} [use] of a subgraph that holds the node; left out, the one that is open, or the newest
   * @returns {View}
   */
  function look(node, use) {
    const entry = newest(node, use);
    const age = entry && connected ? store.age(entry) : 0;
    const bypassed = SWITCHED_OFF.has(node.mode ?? 0);
    const way = wayOf(root(), node);
    const stopped = stoppedBy(way, (other) => newest(other), entry);
    const changed = changedSince(root(), way, (other) => (other === node ? entry : newest(other)));
    const known = { entry, past: past(node), bypassed, age, stopped, changed };
    const elsewhere = stopped?.node ?? rejecting(way, (other) => newest(other), entry?.record ?? null);
    return { record: entry?.record ?? null, bypassed, elsewhere, ...shown(known, words()) };
  }

  /**
   * @param {BoardNode} node
   * @param {import("./line.js").StatusLine} line
   * @param {import("../words.js").Words} say
   */
  function writeOne(node, line, say) {
    const entry = newest(node) ?? moveIn(node);
    if (entry) last.set(node, entry);
    const { record, bypassed, line: said, details, stopped } = look(node);
    const plotted = stopped || bypassed ? [] : steps(record);
    const eager = plotted.length ? record?.speed?.eager_ms : null;
    line.show({
      line: said,
      details: [...details, ...(plotted.length ? [say("status.bars")] : []), ...(plotted.some(({ other }) => other) ? [say("status.pale")] : []), say("status.open")],
      label: say("status.label"),
      steps: plotted,
      uncompiledMs: isNumber(eager) ? eager : null,
    });
    return record;
  }

  /**
   * A node that the host moved into a subgraph is another object with the same id, and is asked for by another path.
   * @param {BoardNode} node
   */
  function moveIn(node) {
    const graph = root();
    const ids = executionIds(graph, node);
    const entry = left.get(nameOf(node));
    if (!entry || entry.record.workflow !== String(graph.id) || !ids.some((id) => id.includes(":"))) return null;
    left.delete(nameOf(node));
    for (const id of ids) store.move(entry, id);
    return newest(node);
  }

  function writeFresh() {
    const say = words();
    for (const node of fresh) {
      const line = lines.get(node);
      if (line) writeOne(node, line, say);
    }
    fresh.clear();
  }

  function write() {
    const say = words();
    let live = false;
    for (const [node, line] of lines) live = isLive(writeOne(node, line, say)) || live;
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

    /** Those that a run would reach; not what is left of a subgraph that is used nowhere any more. */
    placed: () => [...lines.keys()].filter((node) => executionIds(root(), node).length > 0),

    /**
     * All nodes with a line and the newest that is known of each, in whichever use of its subgraph.
     * @returns {[BoardNode, import("./store.js").Entry | null][]}
     */
    known() {
      const graph = root();
      return [...lines.keys()].map((node) => [node, store.find(String(graph.id), executionIds(graph, node))]);
    },

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
      // None may wait empty for the end of a pause. A workflow that is loaded adds its nodes first, then fills them.
      if (!fresh.size) queueMicrotask(writeFresh);
      fresh.add(node);
    },

    /** @param {BoardNode} node */
    remove(node) {
      lines.delete(node);
      const entry = last.get(node);
      if (!entry) return;
      const name = nameOf(node);
      left.set(name, entry);
      setTimeout(() => left.delete(name), MOVING);
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
