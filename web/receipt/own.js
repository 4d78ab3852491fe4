// @ts-check
// Which receipts this browser wrote itself: all others are somebody else's.

const MOST = 500;

/**
 * Remembers receipts by a short mark of their content, for this server's address.
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
    /** @param {unknown} receipt */
    has: (receipt) => marks.has(markOf(receipt)),

    /** @param {unknown} receipt */
    add(receipt) {
      const mark = markOf(receipt);
      if (marks.has(mark)) return;
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
 * FNV-1a, twice with different starts: 64 bits that only need to tell receipts apart.
 * @param {unknown} receipt
 */
function markOf(receipt) {
  const text = JSON.stringify(receipt) ?? "";
  return [0x811c9dc5, 0x1b873593].map((start) => {
    let hash = start;
    for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
    return (hash >>> 0).toString(36);
  }).join("-");
}
