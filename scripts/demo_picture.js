/** In the demo's editor: the picture of the run before it was opened, on the node that saved it. */

// @ts-ignore: the editor's own files, by their address
import { api } from "../../scripts/api.js";
// @ts-ignore
import { app } from "../../scripts/app.js";

let shown = false;

app.registerExtension({
  name: "OneDiff.Demo",
  async afterConfigureGraph() {
    if (shown) return;
    const ran = await fetch(new URL("ran.json", import.meta.url)).then((answer) => (answer.ok ? answer.json() : null));
    if (ran === null || String(app.graph.id) !== ran.workflow) return;
    shown = true;
    for (const [node, output] of Object.entries(ran.outputs)) {
      const detail = { node, display_node: node, output, prompt_id: ran.prompt };
      api.dispatchEvent(new CustomEvent("executed", { detail }));
    }
  },
});
