// @ts-check
// In the classic renderer elements lie above the canvas, which then misses what happens over them.

/**
 * Passes zooming, panning and the context menu on to the canvas. Nodes 2.0 does that itself, except for panning.
 * @param {HTMLElement} element
 * @param {() => HTMLElement} canvas
 * @param {AbortSignal} signal ends it
 */
export function forwardToCanvas(element, canvas, signal) {
  const classic = () => element.closest(".dom-widget") !== null;

  /** @param {WheelEvent | PointerEvent} event */
  const forward = (event) => {
    event.preventDefault();
    event.stopPropagation();
    const { constructor } = /** @type {any} */ (event);
    canvas().dispatchEvent(new constructor(event.type, event));
  };

  element.addEventListener("wheel", (event) => classic() && forward(event), { signal });
  element.addEventListener(
    "pointerdown",
    (event) => {
      if (event.button === 1 || (event.button !== 0 && classic())) forward(event);
    },
    { signal },
  );
  element.addEventListener("contextmenu", (event) => classic() && event.preventDefault(), { signal });
}

/**
 * Calls `open` when the element is clicked, or its button pressed by keyboard. The editor does not see these keys.
 * @param {HTMLElement} element
 * @param {() => void} open
 * @param {AbortSignal} signal ends it
 */
export function openWith(element, open, signal) {
  element.addEventListener("click", open, { signal });
  for (const type of /** @type {const} */ (["keydown", "keyup"])) {
    element.addEventListener(type, (event) => [" ", "Enter"].includes(event.key) && event.stopPropagation(), {
      signal,
    });
  }
}
