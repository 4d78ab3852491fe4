// The Chinese help is as new as the English one: what one of them has, the other has too, section by section.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const docs = new URL("../../web/docs/", import.meta.url);
const NODES = [
  ...["OneDiffPatchAttention", "OneDiffForwardCheck", "OneDiffCompile", "OneDiffSpeedReport"],
  ...["OneDiffLoadProcessor", "OneDiffIPAdapter", "OneDiffCompileVAE", "OneDiffCompileControlNet"],
];

/** How many rows, points and steps each section has, and what stands in code in its tables and points. */
function outline(file) {
  const text = readFileSync(new URL(file, docs), "utf8").replace(/^```[\s\S]*?^```$/gm, "");
  return text.split(/^##? /m).map((section) => {
    const lines = section.split("\n");
    const count = (pattern) => lines.filter((line) => pattern.test(line)).length;
    return { rows: count(/^\|/), points: count(/^ *- /), steps: count(/^\d\. /), pictures: count(/^!\[/) };
  });
}

for (const node of NODES)
  test(`the help page of ${node} has the same rows, points and steps in both languages`, () => {
    assert.deepEqual(outline(`${node}/zh.md`), outline(`${node}.md`));
  });
