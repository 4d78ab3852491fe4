// @ts-check
// The server gives its reasons in English, for logs and scripts. Those that people meet are said in their language; one
// that is not known here stays as it is.

import { plain } from "./record.js";

/** @typedef {import("../words.js").Words} Words */

/**
 * The server's sentences by key of words (`reasons.<key>`). What {why}, {it}, {remedy} and {doing} stand for is said in the
 * same way.
 * @type {[string, string][]}
 */
export const REASONS = [
  ["slower", "compiled, it took longer than uncompiled."],
  ["no_same_steps", "no two steps ran the same blocks, uncompiled and compiled, so that nothing shows a gain."],
  ["no_module", "its model is no PyTorch module."],
  ["beside", "another one of this node is in use: on several GPUs, it is compiled on one of them."],
  ["not_compared", "there was not enough memory to compare both ways."],
  [
    "whole_differs",
    "a compiled call as a whole gave another result than an uncompiled one, though each of its blocks was right.",
  ],
  ["not_reached", "this part of it has no block that repeats or computes attention."],
  ["compiled_already", "another node compiles it: remove one of the two."],
  ["not_repeated", "it could not be repeated: {why}"],
  ["not_watched", "it could not be watched: {why}"],
  ["not_looked_at", "it could not be looked at: {why}"],
  ["unknown_list", "it is handed a list or a dictionary and changes it in a way that no compiled block can."],
  [
    "no_clear_gain",
    "no clear gain: compiled, it ran {low}× to {high}× as fast (the middle half of {pairs} comparisons).",
  ],
  ["no_gain", "no gain: {left} of {kinds} kinds of block were not compiled. {why}"],
  ["no_gain_before", "no gain: nothing more was compiled, as an earlier run timed it. {why}"],
  ["no_gain_nothing", "no gain: nothing was compiled. {why}"],
  ["no_gain_at_all", "no gain: {why}"],
  [
    "type_gains_little",
    "{type} gains too little: {tried} of its {kinds} widths were compiled and ran {gain}× as fast as uncompiled.",
  ],
  ["type_ran", "{type} gains too little at this size: a compiled block ran {gain}× as fast as uncompiled."],
  [
    "type_libraries",
    "{type} can gain little at this size: {percent} of its time goes into convolutions, matrix products and attention, which compiling leaves as they are.",
  ],
  ["type_not_worth", "{type} is not worth compiling at this size: the whole would run {gain}× as fast at most."],
  ["not_finite", "compiled code gave NaN or Inf."],
  ["was_right", "{why} It was still right {steps} steps earlier; pictures made since then may be wrong."],
  ["differs_form", "its compiled result has NaN, Inf, other whole numbers or another form than the uncompiled one."],
  ["differs_by", "its compiled result differs from the uncompiled one by {error} relative; {most} is accepted."],
  ["out_of_memory", "compiled code ran out of memory at this size."],
  ["limit", "{seconds} s of compiling is the limit for one picture: it is compiled in the next."],
  ["whole_model", "another node compiles the whole model (TorchCompileModel): remove one of the two."],
  ["several_gpus", "ComfyUI runs this model on several GPUs, which this version does not support."],
  ["no_part", "this model has no part that scope “{scope}” could compile."],
  ["no_block", "no block could be compiled: {why}"],
  ["one_block", "{block} cannot be compiled: {why}"],
  ["hook", "another node put a hook on it."],
  ["hook_at", "another node put a hook on it at {at}."],
  ["replaced", "another node replaced its forward with something that is not a method of it."],
  ["replaced_at", "another node replaced the forward at {at} with something that is not a method of it."],
  ["keeps_state", "its processor keeps something between calls, so it is called exactly once a step."],
  ["patched_weights", "its weights are patched while it runs, because the model is only partly loaded."],
  ["many_variants", "it was compiled for {count} combinations of settings already."],
  ["views", "it writes into one of two inputs that are views of the same memory."],
  ["no_compiler", "no working C++ compiler was found: {remedy}"],
  ["no_headers", "Python's header files are missing: {remedy} and restart ComfyUI."],
  ["no_triton", "Triton is missing: run {command} and restart ComfyUI."],
  ["no_onediff", "onediff is not installed: run {command} and restart ComfyUI."],
  ["compiler_failed", "the C++ compiler failed: {what}"],
  ["asked", "Asked for. It {it}"],
  ["first", "The first that works here and is not slower: it {it}"],
  ["instead", "{name} is not available: {why} Used instead: it {it}"],
  ["slow_one", "No working backend was fast in its trial; this one {it}"],
  ["not_available", "{name} is not available: {why}"],
  ["tried_slow", "compiled and ran a small attention in {seconds} s, {times} times slower than uncompiled."],
  ["tried", "compiled and ran a small attention in {seconds} s."],
  ["nexfort_missing", "nexfort is not installed, and needs a build of torch of its own and an NVIDIA GPU: use inductor."],
  ["kernel_device", "device {device} is not among {known}"],
  ["kernel_dtype", "dtype {dtype} is not among {known}"],
  ["kernel_head", "head size {size} is not among {known}"],
  ["kernel_approximate", "it is approximate: set quality to fast for it"],
  ["kernel_already", "ComfyUI computes with it already"],
  ["kernel_in_trial", "it is being tried in a process of its own: the next model that is loaded may use it"],
  ["kernel_no_faster", "no faster"],
  ["kernel_other_faster", "another one is faster"],
  ["kernel_not_tried", "not tried: no time was left for it"],
  ["kernel_full_precision", "the model asks for full precision there"],
  ["kernel_no_mask", "it takes no mask"],
  ["kernel_capability", "compute capability {found} < {least}, the least that it supports"],
  ["kernel_head_most", "head size {size} > {most}, the most that it supports"],
  ["kernel_slower", "slower"],
  ["kernel_no_difference", "no difference at this size"],
  ["kernel_elsewhere", "not tried at this size: it is taken at the others"],
  ["kernel_raises", "it raises {what}"],
  ["kernel_wrong_numbers", "it computes wrong numbers here ({error} relative difference)."],
  ["kernel_writes", "it writes into its inputs."],
  ["kernel_missing", "the package {name} is not installed: {remedy}."],
  ["kernel_old", "{name} {version} is older than {least}: {remedy}."],
  ["kernel_hung", "it hung while {doing} and was ended after {seconds} s: {remedy}."],
  ["kernel_ended", "it ended its process while {doing} ({cause}): {remedy}."],
  ["kernel_loading", "loading {name}"],
  ["kernel_computing", "computing a small attention"],
  ["remedy_install_fitting", "run {command}, in the version for your PyTorch, and restart ComfyUI"],
  ["remedy_install", "run {command} and restart ComfyUI"],
  ["remedy_build", "build {what} from {where}"],
  ["remedy_update", "update ComfyUI"],
  ["remedy_reinstall", "reinstall its package"],
  ["nexfort_gpu", "nexfort needs an NVIDIA GPU, and torch sees none here: use inductor."],
];

const NESTED = new Set(["why", "it", "remedy", "doing"]);

/** @type {[string, RegExp][]} */
const PATTERNS = REASONS.map(([key, text]) => {
  const escaped = text.replace(/[.*+?^$()|[\]\\]/g, "\\$&");
  return [key, new RegExp(`^${escaped.replace(/\{(\w+)\}/g, "(?<$1>.+?)")}$`)];
});

/**
 * @param {unknown} said by the server
 * @param {Words} words
 * @returns {string}
 */
export function reasonIn(said, words) {
  const text = plain(said);
  const each = text.split("; ").map((one) => oneIn(one, words)); // a kernel may have several
  return each.includes(null) ? (oneIn(text, words) ?? text) : each.join("; ");
}

/** @param {string} text @param {Words} words @returns {string | null} null for what is not known */
function oneIn(text, words) {
  // The server's sentences begin as they are used: in small letters behind a colon, else with a capital.
  for (const [key, pattern] of PATTERNS) {
    const match = pattern.exec(text) ?? pattern.exec(text.charAt(0).toLowerCase() + text.slice(1));
    if (!match) continue;
    const values = Object.entries(match.groups ?? {}).map(([name, value]) => [
      name,
      NESTED.has(name) ? reasonIn(value, words) : value,
    ]);
    const found = words(`reasons.${key}`, Object.fromEntries(values));
    return /^\p{Lu}/u.test(text) ? found.charAt(0).toUpperCase() + found.slice(1) : found;
  }
  return null;
}
