// @ts-check
// The status line as the last widget of a node.

const MARGIN = 4;

/** @typedef {import("./line.js").Display} Display */

/**
 * Puts the line on a node. It takes no part in the workflow or the prompt.
 * @param {any} node of the host
 * @param {import("./line.js").StatusLine} line
 * @param {string} label
 * @returns {(display: Display) => void} changes how much of it is shown; the node shrinks or grows by as much
 */
export function addStatusWidget(node, line, label) {
  const height = () => line.height() + 2 * MARGIN;
  const widget = node.addDOMWidget("onediff_status", "onediff_status", line.element, {
    serialize: false,
    margin: MARGIN,
    getMinHeight: height,
  });
  widget.serialize = false;
  widget.label = label;
  // A fixed height in both renderers, where a DOM widget otherwise takes what the node has left.
  widget.computeLayoutSize = undefined;
  widget.computeSize = () => [0, height()];

  return (display) => {
    const smallest = node.computeSize()[1];
    line.display(display);
    const hidden = display === "none";
    if (widget.hidden !== hidden) {
      // The classic renderer reads the one, Nodes 2.0 the other, when the list of widgets changes.
      widget.hidden = widget.options.hidden = hidden;
      node.widgets.splice(node.widgets.indexOf(widget), 1);
      node.widgets.push(widget);
    }
    const [width, wanted] = node.computeSize();
    node.setSize([Math.max(node.size[0], width), Math.max(wanted, node.size[1] + wanted - smallest)]);
  };
}
