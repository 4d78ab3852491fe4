// @ts-check
// The latest record of every node, of every workflow that the server told this page about.

import { isOutcome } from "./record.js";

/** @typedef {import("./record.js").StatusRecord} StatusRecord */

/**
 * @typedef {Object} Entry
 * @property {StatusRecord} record
 * @property {number} order later is larger
 * @property {number} at when it arrived, in milliseconds of the store's clock
 * @property {boolean} stale the server does not know it any more: it has restarted since
 * @property {string} [from] key under which the server knows it: the node has got another id since
 * @property {StatusRecord | null} outcome the last record that was not one of a run in progress
 */

/** @param {() => number} [clock] milliseconds */
export function createStore(clock = () => performance.now()) {
  /** @type {Map<string, Entry>} */
  const entries = new Map();
  /** @type {Set<() => void>} */
  const listeners = new Set();
  let order = 0;

  const tell = () => {
    for (const listener of [...listeners]) listener();
  };

  /** @param {unknown} record */
  const keep = (record) => {
    if (!isRecord(record)) return false;
    order += 1;
    const name = key(record.workflow, record.node);
    const outcome = isOutcome(record) ? record : (entries.get(name)?.outcome ?? null);
    entries.set(name, { record, order, at: clock(), stale: false, outcome });
    return true;
  };

  return {
    /**
     * Take in one record; what it says replaces what was known of that node.
     * @param {unknown} record
     */
    put(record) {
      if (keep(record)) tell();
    },

    /** A point in time, to be taken before asking the server for all records. */
    mark: () => order,

    /**
     * Take in everything that the server knows. What it does not know any more was measured before it restarted: the
     * last outcome is kept as stale, a run in progress is over. What arrived since `mark` is newer than the answer.
     * @param {unknown} records key → record; the keys mean nothing here
     * @param {number} mark
     */
    load(records, mark) {
      const newer = new Set();
      const all = Object.values(records && typeof records === "object" ? records : {}).filter(isRecord);
      const names = new Set(all.map((record) => key(record.workflow, record.node)));
      for (const [name, entry] of entries) {
        if (entry.order > mark || (entry.from && names.has(entry.from))) newer.add(name);
        else if (entry.outcome) entries.set(name, { ...entry, record: entry.outcome, stale: true });
        else entries.delete(name);
      }
      const known = all;
      // A record that is still being made has no time yet: it is the newest.
      const time = (/** @type {StatusRecord} */ record) => Date.parse(record.measured_at ?? "") || Infinity;
      known.sort((a, b) => (time(a) === time(b) ? 0 : time(a) - time(b)));
      for (const record of known) if (!newer.has(key(record.workflow, record.node))) keep(record);
      tell();
    },

    /**
     * A node has got another id, as one that went into a subgraph: what was known of it holds under that one too.
     * @param {Entry} entry
     * @param {string} node the new execution id
     */
    move({ record, from, ...rest }, node) {
      const moved = { ...record, node };
      const before = from ?? key(record.workflow, record.node);
      entries.set(key(record.workflow, node), { ...rest, record: moved, from: before });
    },

    /**
     * The newest record of any of these execution ids.
     * @param {string} workflow
     * @param {string[]} nodes more than one for a node of a subgraph that is used several times
     * @returns {Entry | null}
     */
    find(workflow, nodes) {
      /** @type {Entry | null} */
      let newest = null;
      for (const node of nodes) {
        const entry = entries.get(key(workflow, node));
        if (entry && (newest === null || entry.order > newest.order)) newest = entry;
      }
      return newest;
    },

    /**
     * @param {() => void} listener called after every change
     * @returns {() => void} ends it
     */
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },

    /** @param {Entry} entry @returns {number} seconds since it arrived */
    age: (entry) => Math.max(0, clock() - entry.at) / 1000,
  };
}

/** @param {string} workflow @param {string} node */
const key = (workflow, node) => JSON.stringify([workflow, node]);

/** @param {any} value @returns {value is StatusRecord} */
function isRecord(value) {
  return (
    Boolean(value) && [value.workflow, value.node, value.state].every((name) => typeof name === "string" && name !== "")
  );
}
