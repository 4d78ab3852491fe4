// @ts-check
// The command that replaces old nodes, and what is said afterwards. The command's name in other languages is in
// locales/<language>/commands.json.

/** @param {() => void} replace */
export const nodeCommand = (replace) => ({
  id: "OneDiff.ReplaceOldNodes",
  icon: "pi pi-arrow-right-arrow-left",
  label: "Replace all old OneDiff nodes",
  function: replace,
});

/**
 * @param {Omit<import("./replace.js").Done, "workflow">} done
 * @param {import("../words.js").Words} words
 * @param {(type: string) => string} title
 */
export function replacedToast({ replaced, stays, used, lost }, words, title) {
  const nodes = (/** @type {string[]} */ types) => types.map(title).join(words("status.and"));
  const left = [
    lost.includes("int8") && words("old.lost_int8"),
    stays.length && words("old.stays", { nodes: nodes(stays) }),
    used.length && words("old.used", { nodes: nodes(used) }),
  ].filter(Boolean);
  const done = replaced ? [words("old.replaced", { count: replaced })] : left.length ? [] : [words("old.none")];
  return { severity: replaced && !left.length ? "success" : "info", detail: [...done, ...left].join(" ") };
}
