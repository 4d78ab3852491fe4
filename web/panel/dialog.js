// @ts-check
// The panel: a modal dialog over the canvas. The browser keeps the focus inside, closes it with Escape and hands the
// focus back.

import { plain } from "../status/record.js";
import { make, makeButton } from "./make.js";
import { report } from "./report.js";
import { json, markdown } from "./text.js";
import { keepFolds, view } from "./view.js";

/** @typedef {import("../words.js").Words} Words */
/** @typedef {import("../status/board.js").BoardNode} BoardNode */

/**
 * @param {Object} options
 * @param {ReturnType<typeof import("../status/board.js").createBoard>} options.board
 * @param {() => Words} options.words
 */
export function createPanel({ board, words }) {
  /** @type {AbortController | null} */
  let opened = null;

  const panel = {
    /**
     * Shows the report of a node until the person closes it or the node is removed.
     * @param {BoardNode} node
     */
    open(node) {
      opened?.abort();
      const closing = new AbortController();
      opened = closing;
      show(node, board, words, closing, (other) => panel.open(other));
    },
  };
  return panel;
}

/**
 * @param {BoardNode} node
 * @param {ReturnType<typeof import("../status/board.js").createBoard>} board
 * @param {() => Words} words
 * @param {AbortController} closing
 * @param {(node: BoardNode) => void} open shows the report of another node instead
 */
function show(node, board, words, closing, open) {
  const say = words();
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", "onediff-panel"));
  const heading = make("h2");
  heading.id = "onediff-panel-title";
  dialog.setAttribute("aria-labelledby", heading.id);
  const body = make("div", "onediff-panel-body");
  body.tabIndex = 0; // so that the arrow keys scroll it
  const told = make("span", "onediff-panel-told");
  told.setAttribute("role", "status");
  const current = () => report(board.look(node), node.title || "OneDiff", words());
  const copy = async (/** @type {string} */ text) => {
    told.textContent = words()((await copied(text, dialog)) ? "panel.copied" : "panel.not_copied");
  };
  const close = makeButton("✕", () => dialog.close(), "onediff-button onediff-panel-close");
  close.setAttribute("aria-label", say("panel.close"));
  close.autofocus = true;
  const head = make("header");
  head.append(heading, close);
  const foot = make("footer");
  foot.append(
    makeButton(say("panel.copy_markdown"), () => copy(markdown(current(), words()))),
    makeButton(say("panel.copy_json"), () => copy(json(board.look(node).record))),
    told,
  );
  dialog.append(head, body, foot);

  let written = "";
  const write = () => {
    if (!board.nodes().includes(node)) return dialog.close();
    const looked = board.look(node);
    const fresh = current();
    const { elsewhere } = looked;
    const title = elsewhere && plain(elsewhere.title || elsewhere.type);
    const key = JSON.stringify([fresh, looked.record?.speed?.steps_ms, title]);
    if (key === written) return;
    written = key;
    heading.textContent = fresh.title;
    const restore = keepFolds(body);
    const link = elsewhere && { title: String(title), open: () => open(elsewhere) };
    body.replaceChildren(...view(fresh, looked.record, words(), link));
    restore(body);
  };

  const { signal } = closing;
  const unwatch = board.watch(write);
  signal.addEventListener("abort", () => {
    unwatch();
    dialog.remove();
  });
  dialog.addEventListener("close", () => closing.abort(), { signal });
  // A click on the backdrop hits the dialog itself.
  dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close(), { signal });
  // The editor has shortcuts of its own for keys, copying and pasting.
  for (const type of ["keydown", "keyup", "copy", "cut", "paste", "wheel", "contextmenu"])
    dialog.addEventListener(type, (event) => event.stopPropagation(), { signal });

  document.body.append(dialog);
  write();
  dialog.showModal();
}

/**
 * @param {string} text
 * @param {HTMLElement} near where the focus may go
 * @returns {Promise<boolean>}
 */
async function copied(text, near) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https there is no clipboard: the older way.
    const field = /** @type {HTMLTextAreaElement} */ (make("textarea", "onediff-status-spoken"));
    const focused = document.activeElement;
    field.value = text;
    near.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return done;
  }
}
