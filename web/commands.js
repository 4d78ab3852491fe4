// @ts-check
// What the command menu offers. Names in other languages are in locales/<language>/commands.json.

/**
 * @param {Object} options
 * @param {() => import("./words.js").Words} options.words
 * @param {() => any[]} options.nodes OneDiff's nodes of the page
 * @param {() => any[]} options.selected the selected nodes
 * @param {(node: any) => void} options.open shows the report of a node
 * @param {(nodes: any[]) => any} options.worst the one that is worst off, null of none
 * @param {() => void} options.overview shows the sidebar
 * @param {() => void} options.accelerate puts the nodes into the workflow
 * @param {() => void} options.remove takes them out
 * @param {(what: string) => Promise<{cleared?: unknown, error?: unknown}>} options.clear asks the server
 * @param {() => void} options.retried called when backends are to be tried again
 * @param {(toast: {severity: string, summary: string, detail?: string, life?: number}) => void} options.toast
 */
export function createCommands(options) {
  const { words, nodes, selected, open, worst, overview, accelerate, remove, clear, retried, toast } = options;
  /** @param {string} what @param {() => void} [then] */
  const clearing = (what, then) => async () => {
    const { cleared, error } = await clear(what);
    toast(
      typeof cleared === "string"
        ? { severity: "success", summary: "OneDiff", detail: cleared, life: 6000 }
        : { severity: "error", summary: words()("toast.not_cleared"), detail: String(error ?? ""), life: 10_000 },
    );
    if (typeof cleared === "string") then?.();
  };
  return [
    { id: "OneDiff.Accelerate", icon: "pi pi-bolt", label: "Accelerate with OneDiff", function: accelerate },
    { id: "OneDiff.Remove", icon: "pi pi-times", label: "Remove all OneDiff nodes", function: remove },
    {
      id: "OneDiff.ShowReport",
      icon: "pi pi-chart-bar",
      label: "Show OneDiff report",
      function: () => {
        const node = nodeToReport(nodes(), selected(), worst);
        if (node) open(node);
        else overview();
      },
    },
    {
      id: "OneDiff.ClearMeasurements",
      icon: "pi pi-eraser",
      label: "Clear OneDiff measurements",
      function: clearing("measurements"),
    },
    {
      id: "OneDiff.ClearCompileCache",
      icon: "pi pi-trash",
      label: "Clear OneDiff compile cache",
      function: clearing("compile cache"),
    },
    {
      id: "OneDiff.TryBackendsAgain",
      icon: "pi pi-refresh",
      label: "Try OneDiff backends again",
      function: clearing("backends", retried),
    },
  ];
}

/**
 * The worst of the selected OneDiff nodes, of all when none is selected; null when there is none.
 * @template N
 * @param {N[]} nodes
 * @param {unknown[]} selected
 * @param {(nodes: N[]) => N | null} worst
 * @returns {N | null}
 */
export function nodeToReport(nodes, selected, worst) {
  const chosen = nodes.filter((node) => selected.includes(node));
  return worst(chosen.length ? chosen : nodes);
}
