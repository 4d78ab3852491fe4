// What the server says in English, in the language of the page.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { backendLine } from "../../web/panel/backends.js";
import { report } from "../../web/panel/report.js";
import { REASONS, reasonIn } from "../../web/status/reasons.js";
import { describe } from "../../web/status/text.js";
import { chinese, english, record, states } from "./records.mjs";

const root = new URL("../../", import.meta.url);

test("a reason is said in the language of the page, with its figures", () => {
  const said = "no clear gain: compiled, it ran 0.93× to 1.06× as fast (the middle half of 16 comparisons).";
  assert.equal(reasonIn(said, english), said);
  assert.equal(reasonIn(said, chinese), "没有明显收益：编译后的速度为 0.93× 至 1.06×（16 次比较中间的一半）。");
});

test("a reason within a reason is said too", () => {
  const said = "no block could be compiled: another node put a hook on it at attn1.to_q.";
  assert.equal(reasonIn(said, chinese), "没有任何块可以编译：另一个节点在其 attn1.to_q 上加了钩子。");
  const asked = "Asked for. It compiled and ran a small attention in 3.2 s.";
  assert.equal(reasonIn(asked, chinese), "按要求选用。编译并运行一个小型注意力用了 3.2 秒。");
  assert.equal(reasonIn(asked, english), asked);
  const differs = "its compiled result differs from the uncompiled one by 1.2e-02 relative; 1e-04 is accepted.";
  const since = `${differs} It was still right 7 steps earlier; pictures made since then may be wrong.`;
  assert.equal(reasonIn(since, english), since);
  assert.equal(
    reasonIn(since, chinese),
    "其编译结果与未编译的结果相对相差 1.2e-02，允许的上限为 1e-04。7 步之前仍然正确；此后生成的图片可能有误。",
  );
});

test("with a capital at its beginning it keeps it, and what is not known stays as it is", () => {
  assert.equal(reasonIn("Another node put a hook on it.", english), "Another node put a hook on it.");
  assert.equal(reasonIn("Another node put a hook on it.", chinese), "另一个节点在其上加了钩子。");
  for (const text of ["something new happened.", "", "{why}", "(.+)"]) assert.equal(reasonIn(text, chinese), text);
  assert.equal(reasonIn(null, chinese), "");
});

test("of several reasons in a row each is said, also those of kernels", () => {
  const of = (said) => {
    assert.equal(reasonIn(said, english), said);
    return reasonIn(said, chinese);
  };
  assert.equal(
    of("device cpu is not among cuda; dtype float32 is not among bfloat16, float16"),
    "设备 cpu 不在 cuda 之中; 数据类型 float32 不在 bfloat16, float16 之中",
  );
  assert.equal(
    of("it hung while computing a small attention and was ended after 9 s: reinstall its package."),
    "它在计算一个小型注意力时没有响应，9 秒后被结束：请重新安装其软件包。",
  );
  const install = "run “pip install --no-deps xformers”, in the version for your PyTorch, and restart ComfyUI";
  assert.equal(
    of(`the package xformers is not installed: ${install}.`),
    "未安装软件包 xformers：请运行 “pip install --no-deps xformers”（与您的 PyTorch 对应的版本）并重启 ComfyUI。",
  );
  const unknown = "something new; no faster";
  assert.equal(of(unknown), unknown);
});

test("line, report and sidebar say it", () => {
  const why = "another node put a hook on it.";
  const status = record({
    ...states.uncompiled,
    summary: `uncompiled: ${why}`,
    backend: { requested: "auto", used: null, reason: why },
    compile: { regions: 1, regions_compiled: 0, regions_uncompiled: [{ path: "middle_block.1", reason: why }] },
  });
  const line = describe(status, chinese);
  assert.match(line.text, /另一个节点在其上加了钩子/);
  const { sections } = report({ record: status, line, bypassed: false, details: [] }, "x", chinese);
  const text = JSON.stringify(sections);
  assert.equal(text.split("另一个节点在其上加了钩子").length, 3, "as the backend's reason and as the block's");
  const row = { name: "nexfort", available: false, reason: REASONS.find(([key]) => key === "nexfort_gpu")?.[1] };
  assert.match(backendLine(row, chinese).why, /^nexfort 需要 NVIDIA 显卡/);
});

test("that nothing gains, and why, is said in Chinese in one sentence", () => {
  const why = "ResBlock gains too little at this size: a compiled block ran 0.99× as fast as uncompiled.";
  const said = reasonIn(`no gain: 7 of 9 kinds of block were not compiled. ${why}`, chinese);
  assert.equal(said, "没有收益：9 种模块块中有 7 种未编译。ResBlock 在此尺寸下收益太小：编译后的一个模块块速度为未编译的 0.99×。");
  assert.match(reasonIn(`no gain: ${why}`, chinese), /^没有收益：ResBlock/);
  const before = `no gain: nothing more was compiled, as an earlier run timed it. ${why}`;
  assert.match(reasonIn(before, chinese), /^没有收益：之前的运行已经测过，因此没有再编译。ResBlock/);
});

test("English says what the server says, and the server still says it", () => {
  const files = ["compilers", "nodes", "processors", "proving"].flatMap((folder) =>
    readdirSync(new URL(folder, root), { recursive: true })
      .filter((name) => name.endsWith(".py"))
      .map((name) => readFileSync(new URL(`${folder}/${name}`, root), "utf8")),
  );
  const sources = files.join("\n").replace(/"\s*\n\s*f?"/g, "");
  for (const [key, text] of REASONS) {
    assert.equal(reasonIn(text.replace(/\{(\w+)\}/g, "X"), english), text.replace(/\{(\w+)\}/g, "X"), key);
    const [longest] = text.split(/\{\w+\}/).sort((a, b) => b.length - a.length);
    // What a sentence is put together from may end before its last word.
    const part = longest.trim().replace(/^(Asked for\.|: it|and) ?/, "").replace(/(: run|: it| It)$/, "");
    assert.ok(sources.includes(part), `${key}: “${part}” is said nowhere`);
  }
});
