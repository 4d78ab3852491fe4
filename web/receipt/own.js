// @ts-check
// Which receipts this browser wrote itself: all others are somebody else's.

/** @typedef {import("./receipt.js").Receipt} Receipt */

const MOST = 500;

/**
 * Remembers receipts by their machine and hour, for this server's address: a receipt changes with every step, and to
 * remember each would push out those of last week.
 * @param {() => Storage} storage may raise, where the browser keeps nothing
 * @param {string} [name]
 */
export function createOwn(storage, name = "OneDiff.Receipts") {
  /** @type {Set<string>} */
  let marks = new Set();
  try {
    const kept = JSON.parse(storage().getItem(name) ?? "[]");
    marks = new Set(Array.isArray(kept) ? kept.filter((mark) => typeof mark === "string").slice(-MOST) : []);
  } catch {
    // Nothing was kept, or something else: then all receipts count as somebody else's.
  }

  return {
    /** @param {Receipt} receipt */
    has: (receipt) => marks.has(markOf(receipt)),

    /** @param {Receipt} receipt */
    add(receipt) {
      const mark = markOf(receipt);
      if (mark === "" || marks.has(mark)) return;
      marks = new Set([...marks, mark].slice(-MOST));
      try {
        storage().setItem(name, JSON.stringify([...marks]));
      } catch {
        // As above, from the next visit on.
      }
    },
  };
}

/**
 * FNV-1a, twice with different starts: 64 bits that only need to tell machines and hours apart. Empty for a receipt
 * without a time.
 * @param {Receipt} receipt
 */
function markOf({ machine, measured_at: at }) {
  if (at === null) return "";
  const text = JSON.stringify([machine, at.slice(0, "2026-06-01T10".length)]);
  return [0x811c9dc5, 0x1b873593].map((start) => {
    let hash = start;
    for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
    return (hash >>> 0).toString(36);
  }).join("-");
}
