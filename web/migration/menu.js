// @ts-check
// The command that replaces old nodes. Its name in other languages is in locales/<language>/commands.json.

/** @param {() => void} replace */
export const nodeCommand = (replace) => ({
  id: "OneDiff.ReplaceOldNodes",
  icon: "pi pi-arrow-right-arrow-left",
  label: "Replace old OneDiff nodes by today's",
  function: replace,
});
