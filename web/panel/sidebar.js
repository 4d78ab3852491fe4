// @ts-check
// The sidebar tab: every model of the workflow with the OneDiff nodes behind it, and what can compile here.

import { backendsView } from "./backends.js";
import { make, makeButton } from "./make.js";
import { modelsOf } from "./overview.js";

/** @typedef {import("../words.js").Words} Words */

/**
 * A tab as the host's `registerSidebarTab` takes it.
 * @param {Object} options
 * @param {ReturnType<typeof import("../status/board.js").createBoard>} options.board
 * @param {ReturnType<typeof import("./backends.js").createBackends>} options.backends
 * @param {() => Words} options.words
 * @param {() => any} options.root the root graph on the canvas
 * @param {(node: any) => void} options.open shows the report of a node
 * @param {(node: any) => void} options.find brings a node into view
 * @param {() => void} options.accelerate puts the nodes into the workflow
 * @param {() => void} options.remove takes them out
 */
export function createSidebar({ board, backends, words, root, open, find, accelerate, remove }) {
  /** @type {(() => void) | undefined} */
  let unwatch;
  return {
    id: "onediff",
    icon: "pi pi-bolt",
    title: "OneDiff",
    tooltip: "OneDiff",
    type: "custom",

    // The host calls it again whenever it draws the sidebar.
    render(/** @type {HTMLElement} */ element) {
      unwatch?.();
      let written = "";
      const write = () => {
        const say = words();
        const models = modelsOf(root(), board.placed());
        const shown = models.map((model) => [
          model.title,
          model.file,
          model.nodes.map((n) => [n.id, n.title, look(n)]),
        ]);
        const key = JSON.stringify([shown, backends.known(), say("sidebar.title")]);
        if (key === written) return;
        written = key;
        const focused = /** @type {HTMLElement | null} */ (
          element.contains(document.activeElement) ? document.activeElement : null
        );
        const focus = focused?.dataset.key;
        element.replaceChildren(page(models, say));
        const again = [...element.querySelectorAll("button")].find((button) => focus && button.dataset.key === focus);
        again?.focus();
      };
      unwatch = board.watch(write);
      write();
      void backends.load();
    },

    destroy() {
      unwatch?.();
      unwatch = undefined;
    },
  };

  /** @param {any} node */
  function look(node) {
    const { symbol, text, tone } = board.look(node).line;
    return [symbol, text, tone];
  }

  /** @param {ReturnType<typeof modelsOf>} models @param {Words} say */
  function page(models, say) {
    const box = make("div", "onediff-sidebar");
    box.append(make("h2", "", say("sidebar.title")));
    if (!models.length) box.append(make("p", "onediff-sidebar-empty", say("sidebar.empty")));
    for (const { title, file, nodes } of models) {
      const section = make("section");
      section.append(make("h3", "", file || title || say("sidebar.no_model")));
      if (file && title) section.append(make("p", "onediff-sidebar-loader", title));
      const list = make("ul");
      list.append(...nodes.map((node) => entry(node, say)));
      section.append(list);
      box.append(section);
    }
    const change = make("p", "onediff-sidebar-change");
    change.append(button("accelerate.menu_add", () => accelerate(), say));
    if (models.length) change.append(button("accelerate.menu_remove", () => remove(), say));
    box.append(change);
    box.append(backendsView(backends.known(), () => void backends.retry(), say));
    return box;
  }

  /** @param {string} key @param {() => void} action @param {Words} say */
  function button(key, action, say) {
    const made = makeButton(say(key), action);
    made.dataset.key = key;
    return made;
  }

  /** @param {any} node @param {Words} say */
  function entry(node, say) {
    const [symbol, text, tone] = look(node);
    const item = make("li", "onediff-sidebar-node");
    item.dataset.tone = tone;
    const report = makeButton("", () => open(node), "onediff-sidebar-report");
    report.dataset.key = `report ${node.id}`;
    const mark = make("span", "onediff-panel-symbol", symbol);
    mark.setAttribute("aria-hidden", "true");
    const said = make("span", "onediff-sidebar-said");
    said.append(make("strong", "", node.title || node.type), make("span", "", text));
    report.append(mark, said);
    const show = makeButton("", () => find(node), "onediff-button onediff-sidebar-find");
    const icon = show.appendChild(make("i", "pi pi-map-marker"));
    icon.setAttribute("aria-hidden", "true");
    show.dataset.key = `find ${node.id}`;
    show.title = say("sidebar.find");
    show.setAttribute("aria-label", `${say("sidebar.find")}: ${node.title || node.type}`);
    item.append(report, show);
    return item;
  }
}
