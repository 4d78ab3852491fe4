// @ts-check
// Elements of the panel. Text from records only ever becomes textContent.

/**
 * @param {string} name
 * @param {string} [className]
 * @param {string} [text]
 */
export function make(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/**
 * @param {string} text
 * @param {() => void} action
 * @param {string} [className]
 */
export function makeButton(text, action, className = "onediff-button") {
  const made = /** @type {HTMLButtonElement} */ (make("button", className, text));
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}
