// The records, and the words of the real locale files.

import { readFileSync } from "node:fs";
import { createWords } from "../../web/words.js";

export * from "./states.mjs";

const table = (language) =>
  JSON.parse(readFileSync(new URL(`../../locales/${language}/main.json`, import.meta.url), "utf8"));

export const tables = { en: table("en"), zh: table("zh") };
export const english = createWords(tables, "en");
export const chinese = createWords(tables, "zh");
