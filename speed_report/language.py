"""What the plot says, by language. The JSON beside it is English, for scripts."""
# ruff: noqa: RUF001 (Chinese has marks of its own)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_ENGLISH = {
    "nothing": "Nothing was compiled",
    "together_faster": "{speedup:.2f}× as fast with all nodes",
    "together_slower": "With all nodes, steps take {percent:.0f} % longer",
    "together_far_slower": "With all nodes, steps take {times:.1f} times as long",
    "together_same": "All nodes together make no difference ({speedup:.2f}×)",
    "patched_faster": "{speedup:.2f}× as fast with patched attention",
    "part_attention": "attention {speedup:.2f}×",
    "part_attention_unclear": "attention: noisy, no clear difference ({speedup:.2f}×)",
    "part_compiled": "compiled {speedup:.2f}×",
    "part_unclear": "compiled: noisy, no clear difference ({speedup:.2f}×)",
    "without": "without",
    "patched": "patched",
    "noisy": "Noisy: what compiling does is not clear ({speedup:.2f}×)",
    "faster": "{speedup:.2f}× as fast compiled",
    "slower": "Compiled steps take {percent:.0f} % longer",
    "far_slower": "Compiled steps take {times:.1f} times as long",
    "same": "Compiling makes no difference ({speedup:.2f}×)",
    "parameters": "{number} parameters",
    "pixels": "{size} pixels",
    "latent": "latent {shape}",
    "attention": "attention {names}",
    "attention_by": "attention by {count} patched processors",
    "sampler": "{sampler}, ",
    "steps": "{count} steps",
    "step": "{count} step",
    "to": "{low} to {high}",
    "backend": "backend {name}",
    "nothing_to_compare": "Uncompiled steps only; there is nothing to compare.",
    "error": "Difference of the final latents, compiled to uncompiled: {apart}{repeat}.",
    "repeat": "; two uncompiled runs: {apart}",
    "apart": "{relative:.1e} relative, {most:.1e} at most",
    "none": "none",
    "not_finite": "NaN, Inf or another shape",
    "took": "compiling took {seconds} s{how} · {blocks}",
    "how": " ({how})",
    "warm": "warm start",
    "cold": "from scratch",
    "earlier": "in an earlier run",
    "blocks": "{count} blocks",
    "block": "{count} block",
    "blocks_of": "{done} of {count} blocks",
    "not_clear": "not clear whether it is earned back",
    "never": "compiling is never earned back",
    "nothing_back": "compiling earns nothing back",
    "at_once": "earned back at once",
    "after": "earned back after {count:,} pictures",
    "after_one": "earned back after {count:,} picture",
    "time_of_step": "Time of a step, {unit}",
    "halves": "{count} steps, the middle half: {ways}{longer}",
    "longer": "; ▲ longer",
    "uncompiled": "uncompiled",
    "compiled": "compiled",
    "in_order": "steps, in the order in which they ran",
    "pictures_of": "pictures of {steps}",
    "why": "Why",
    "no_reason": "No reason was given.",
    "milliseconds": "milliseconds",
    "seconds": "seconds",
    "minutes": "minutes",
    "hours": "hours",
}

_CHINESE = {
    "nothing": "没有编译任何内容",
    "together_faster": "使用所有节点速度为 {speedup:.2f} 倍",
    "together_slower": "使用所有节点每步用时多 {percent:.0f} %",
    "together_far_slower": "使用所有节点每步用时为 {times:.1f} 倍",
    "together_same": "所有节点合在一起没有差别（{speedup:.2f}×）",
    "patched_faster": "替换注意力后速度为 {speedup:.2f} 倍",
    "part_attention": "注意力 {speedup:.2f}×",
    "part_attention_unclear": "注意力：波动大，差别不明显（{speedup:.2f}×）",
    "part_compiled": "编译 {speedup:.2f}×",
    "part_unclear": "编译：波动大，差别不明显（{speedup:.2f}×）",
    "without": "不使用节点",
    "patched": "已替换",
    "noisy": "波动大：编译的效果不明显（{speedup:.2f}×）",
    "faster": "编译后速度为 {speedup:.2f} 倍",
    "slower": "编译后每步用时多 {percent:.0f} %",
    "far_slower": "编译后每步用时为 {times:.1f} 倍",
    "same": "编译没有差别（{speedup:.2f}×）",
    "parameters": "{number} 参数",
    "pixels": "{size} 像素",
    "latent": "Latent {shape}",
    "attention": "注意力 {names}",
    "attention_by": "注意力由 {count} 个替换的处理器计算",
    "sampler": "{sampler}，",
    "steps": "{count} 步",
    "step": "{count} 步",
    "to": "{low} 至 {high}",
    "backend": "后端 {name}",
    "nothing_to_compare": "只有未编译的步骤，没有可比较的内容。",
    "error": "最终 Latent 的差异（编译与未编译）：{apart}{repeat}。",
    "repeat": "；两次未编译运行：{apart}",
    "apart": "相对 {relative:.1e}，最大 {most:.1e}",
    "none": "无",
    "not_finite": "NaN、Inf 或形状不同",
    "took": "编译用时 {seconds} 秒{how} · {blocks}",
    "how": "（{how}）",
    "warm": "热启动",
    "cold": "从头开始",
    "earlier": "之前的运行",
    "blocks": "{count} 个块",
    "block": "{count} 个块",
    "blocks_of": "{count} 个块中的 {done} 个",
    "not_clear": "不清楚编译成本能否收回",
    "never": "编译成本永远不会收回",
    "nothing_back": "编译没有收益",
    "at_once": "编译成本立即收回",
    "after": "{count:,} 张图片后收回编译成本",
    "after_one": "{count:,} 张图片后收回编译成本",
    "time_of_step": "每步用时（{unit}）",
    "halves": "{count} 步，其中一半：{ways}{longer}",
    "longer": "；▲ 更长",
    "uncompiled": "未编译",
    "compiled": "编译",
    "in_order": "各步，按运行顺序",
    "pictures_of": "图片数（每张 {steps}）",
    "why": "原因",
    "no_reason": "没有给出原因。",
    "milliseconds": "毫秒",
    "seconds": "秒",
    "minutes": "分钟",
    "hours": "小时",
}


@dataclass(frozen=True)
class Say:
    """Texts of one language by key, and the fonts that have its letters; the first that is there is used."""

    texts: dict[str, str]
    fonts: tuple[str, ...] = ()
    style: dict[str, Any] = field(default_factory=dict)

    def __call__(self, key: str, **values: Any) -> str:
        return self.texts[key].format(**values)

    def counted(self, number: int, many: str, one: str) -> str:
        """``counted(1, "steps", "step")`` is "1 step"."""
        return self(one if number == 1 else many, count=number)


ENGLISH = Say(_ENGLISH)
CHINESE = Say(
    _CHINESE,
    (
        *(
            "Microsoft YaHei",
            "PingFang SC",
            "Hiragino Sans GB",
            "Noto Sans CJK SC",
            "Noto Sans SC",
            "Source Han Sans SC",
        ),
        *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Heiti SC", "Droid Sans Fallback"),
    ),
)


def language_of(locale: str) -> Say:
    """``language_of("zh-TW")`` is Chinese; what is not known here is English."""
    return CHINESE if locale.split("-")[0].lower() == "zh" else ENGLISH
