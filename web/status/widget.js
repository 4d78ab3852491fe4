// @ts-check
// The status line as the last widget of a node.

const MARGIN = 4;

// What the host leaves between two widgets.
const GAP = 4;

/** @typedef {import("./line.js").Display} Display */

/**
 * Puts the line on a node. It takes no part in the workflow or the prompt.
 * @param {any} node of the host
 * @param {import("./line.js").StatusLine} line
 * @param {string} label
 * @param {() => boolean} classic whether the classic renderer draws; Nodes 2.0 leaves no margin around the line
 * @param {() => boolean} far whether the classic renderer draws no text, because it is zoomed far out
 * @returns {(display: Display) => void} changes how much of it is shown; the node shrinks or grows by as much
 */
export function addStatusWidget(node, line, label, classic, far) {
  const height = () => line.height() + 2 * MARGIN;
  const widget = node.addDOMWidget("onediff_status", "onediff_status", line.element, {
    serialize: false,
    margin: MARGIN,
    hideOnZoom: false, // of far away nodes the mark is still to be seen
    onDraw: () => line.far(far()),
    getMinHeight: height,
  });
  widget.serialize = false;
  widget.label = label;
  // A fixed height in both renderers, where a DOM widget otherwise takes what the node has left.
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [0, height()];
  grow(0);

  /** @param {number} more */
  function grow(more) {
    const [width, least] = node.computeSize();
    node.setSize([Math.max(node.size[0], width), Math.max(node.size[1] + more, least)]);
  }

  const space = () => (line.height() === 0 ? 0 : line.height() + GAP + (classic() ? 2 * MARGIN : 0));

  return (display) => {
    const before = space();
    line.display(display);
    const hidden = display === "none";
    if (widget.options.hidden !== hidden) {
      // The classic renderer reads the one, Nodes 2.0 the other when the list of widgets changes.
      widget.hidden = widget.options.hidden = hidden;
      node.widgets.splice(node.widgets.indexOf(widget), 1);
      node.widgets.push(widget);
    }
    if (space() !== before) grow(space() - before);
    node.setDirtyCanvas?.(true, true);
  };
}
