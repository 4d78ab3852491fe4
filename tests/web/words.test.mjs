import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { createWords } from "../../web/words.js";
import { tables } from "./records.mjs";

const root = new URL("../../", import.meta.url);

/** @returns {[string, string][]} dotted key and text */
const flat = (tree, path = "") =>
  Object.entries(tree).flatMap(([key, value]) =>
    typeof value === "string" ? [[`${path}${key}`, value]] : flat(value, `${path}${key}.`),
  );
const withoutPlural = (key) => key.replace(/_(one|other)$/, "");
const placeholders = (text) => [...new Set(text.match(/\{\w+\}/g))].sort();

test("plural forms follow the language", () => {
  const words = createWords(tables, "en");
  assert.equal(words("status.errors", { count: 1 }), "1 error");
  assert.equal(words("status.errors", { count: 2 }), "2 errors");
  assert.equal(createWords(tables, "zh")("status.errors", { count: 1 }), "1 个错误");
});

test("a language without words of its own takes those of its base, then English; a missing word is its key", () => {
  assert.equal(createWords(tables, "zh-TW")("status.idle"), "尚未运行");
  assert.equal(createWords(tables, "fr")("status.idle"), "not run yet");
  assert.equal(createWords(tables, "not a locale!")("status.idle"), "not run yet");
  assert.equal(createWords({}, "en")("status.idle"), "status.idle");
});

test("text put into a sentence is not taken for a placeholder or a pattern", () => {
  const words = createWords(tables, "en");
  assert.equal(words("details.foreign", { what: "{count} $& $1" }), "Also acts on attention: {count} $& $1.");
});

test("Chinese has every word that English has, with the same placeholders", () => {
  const [en, zh] = [tables.en, tables.zh].map(
    (table) => new Map(flat(table).map(([key, text]) => [withoutPlural(key), placeholders(text)])),
  );
  assert.deepEqual([...zh.keys()].sort(), [...en.keys()].sort());
  for (const [key, names] of en) assert.deepEqual(zh.get(key), names, key);
});

test("every word that the code asks for exists", () => {
  const known = new Set(flat(tables.en).map(([key]) => withoutPlural(key).replace(/^onediff\./, "")));
  const files = readdirSync(new URL("web", root), { recursive: true }).filter((name) => name.endsWith(".js"));
  assert.ok(files.length > 20);
  for (const name of files) {
    const text = readFileSync(new URL(`web/${name}`, root), "utf8");
    // A file that shortens keys says how: words(`panel.${key}`, values).
    const group = text.match(/\(key, values\) => words\(`(\w+)\.\$\{key\}`/)?.[1];
    const used = [/\b(?:tell|say|section)\(\s*"(\w+)"/g, /(?:^\s+|\[)\["(\w+)",\s(?!")/gm];
    const inner = group === undefined ? [] : used.flatMap((pattern) => [...text.matchAll(pattern)]);
    for (const [, key] of inner) assert.ok(known.has(`${group}.${key}`), `${name}: ${group}.${key}`);
    for (const [, key] of text.matchAll(/(?:words\(\)|words|say)\(\s*"(\w+\.[\w.]+)"/g))
      assert.ok(known.has(key), `${name}: ${key}`);
  }
});

test("settings, commands and their choices exist in both languages", () => {
  for (const name of ["settings", "commands"]) {
    const [en, zh] = ["en", "zh"].map((language) =>
      flat(JSON.parse(readFileSync(new URL(`locales/${language}/${name}.json`, root), "utf8"))),
    );
    assert.deepEqual(
      zh.map(([key]) => key),
      en.map(([key]) => key),
    );
    const files = readdirSync(new URL("web", root), { recursive: true }).filter((file) => file.endsWith(".js"));
    const source = files.map((file) => readFileSync(new URL(`web/${file}`, root), "utf8")).join("\n");
    for (const [, text] of en) assert.ok(source.includes(`"${text}"`), text);
    for (const [, id] of readFileSync(new URL(`web/${name}.js`, root), "utf8").matchAll(/\bid: "(OneDiff[\w.]+)"/g))
      assert.ok(
        en.some(([key]) => key.startsWith(id.replaceAll(".", "_"))),
        id,
      );
  }
});

test("the settings' categories have names in both languages", () => {
  const source = readFileSync(new URL("web/settings.js", root), "utf8");
  const used = [...source.matchAll(/category: \["([^"]+)", "([^"]+)"/g)].flatMap(([, ...names]) => names);
  assert.ok(used.length > 0);
  for (const language of ["en", "zh"])
    for (const name of used) assert.ok(tables[language].settingsCategories[name], `${language}: ${name}`);
});

test("the menu's names are those of the commands", () => {
  const labels = Object.values(JSON.parse(readFileSync(new URL("locales/en/commands.json", root), "utf8")));
  assert.deepEqual(
    Object.keys(tables.zh.menuLabels).filter((label) => label !== "OneDiff"),
    labels.map(({ label }) => label),
  );
});

test("node names and tooltips exist in both languages and hold nothing that the host takes for a pattern", () => {
  const [en, zh] = ["en", "zh"].map((language) =>
    JSON.parse(readFileSync(new URL(`locales/${language}/nodeDefs.json`, root), "utf8")),
  );
  assert.deepEqual(
    flat(zh).map(([key]) => key),
    flat(en).map(([key]) => key),
  );
  for (const [key, text] of [...flat(en), ...flat(zh)]) assert.doesNotMatch(text, /[@{}|]/, key);
});
