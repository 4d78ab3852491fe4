// @ts-check
// What the server keeps, on the settings page: the compile cache and measurements, each with a button that clears it.

import { millions } from "../status/format.js";
import { isNumber, list, plain } from "../status/record.js";
import { make, makeButton } from "./make.js";

/** @typedef {import("../words.js").Words} Words */

const MB = 2 ** 20;

/**
 * "312 MB in 40 files, of 2048 MB at most"
 * @param {any} kept answer of `GET /onediff/kept`, null without one
 * @param {Words} words
 */
export function cacheText(kept, words) {
  const { bytes, files, limit } = kept?.cache ?? {};
  if (kept && bytes === null) return words("kept.cache_off");
  if (!isNumber(bytes) || !isNumber(files)) return words("kept.no_answer");
  if (!files) return words("kept.cache_empty");
  const size = bytes < 10 * MB ? (bytes / MB).toFixed(1) : String(Math.round(bytes / MB));
  return words("kept.cache", { count: files, size, limit: isNumber(limit) ? Math.round(limit / MB) : "∞" });
}

/**
 * One line a model: "sd15.safetensors, UNetModel, 860 M parameters, float16"
 * @param {any} kept answer of `GET /onediff/kept`, null without one
 * @param {Words} words
 * @returns {string[]} never empty
 */
export function modelTexts(kept, words) {
  if (!kept) return [words("kept.no_answer")];
  const said = list(kept.models).map((model) =>
    [
      plain(model?.file),
      plain(model?.class),
      isNumber(model?.parameters) && words("panel.parameters", { value: millions(model.parameters) }),
      plain(model?.dtype),
    ]
      .filter(Boolean)
      .join(", "),
  );
  return said.length ? said : [words("kept.no_models")];
}

/**
 * Draws one of both as the host's settings page wants it, and anew after it was cleared.
 * @param {Object} options
 * @param {() => Promise<any>} options.ask for `GET /onediff/kept`
 * @param {(kept: any, words: Words) => string[]} options.texts
 * @param {string} options.button a key of words
 * @param {() => unknown} options.clear
 * @param {() => Words} options.words
 */
export function keptView({ ask, texts, button, clear, words }) {
  const box = make("div", "onediff-kept");
  const said = box.appendChild(make("div", "onediff-kept-said"));
  said.setAttribute("role", "status");
  const write = async () => {
    const kept = await ask();
    said.replaceChildren(...texts(kept, words()).map((text) => make("p", "", text)));
  };
  const act = makeButton(words()(button), async () => {
    await clear();
    await write();
  });
  box.append(act);
  void write();
  return box;
}
