"""What each processor of the corpus computes, as formulas in plain torch, from what came into a site alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize, pad


@dataclass(frozen=True)
class Call:
    """One call of a site: its module, what came in, and the noise level. ``context`` is None in self-attention; a mask
    is bool or additive, of 2, 3 or 4 dimensions."""

    site: Any
    x: Tensor
    context: Tensor | None
    mask: Tensor | None
    sigma: float

    @property
    def crosses(self) -> bool:
        return self.context is not None

    @property
    def reads(self) -> Tensor:
        """What keys and values are made of."""
        return self.x if self.context is None else self.context

    @property
    def q(self) -> Tensor:
        return self.site.to_q(self.x)

    @property
    def k(self) -> Tensor:
        return self.site.to_k(self.reads)

    @property
    def v(self) -> Tensor:
        return self.site.to_v(self.reads)


#: The results of a sampling's calls, of all sites in their order.
Picture = Callable[[Sequence[Call]], list[Tensor]]


def each(formula: Callable[[Call], Tensor]) -> Picture:
    """A picture of which every call is computed for itself."""
    return lambda calls: [formula(call) for call in calls]


def bias(mask: Tensor | None, like: Tensor) -> Tensor | float:
    """A mask as numbers to add to (batch, heads, queries, keys)."""
    if mask is None:
        return 0.0
    mask = mask.reshape(
        *(mask.shape[0] if mask.ndim > 2 else 1, mask.shape[1] if mask.ndim > 3 else 1, *mask.shape[-2:])
    )
    return torch.where(mask, 0.0, float("-inf")).to(like) if mask.dtype == torch.bool else mask.to(like)


def apart(x: Tensor, heads: int) -> Tensor:
    return torch.stack(x.chunk(heads, dim=-1), dim=1)


def together(x: Tensor) -> Tensor:
    return torch.cat(x.unbind(dim=1), dim=-1)


def weights(q: Tensor, k: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    q, k = apart(q, heads), apart(k, heads)
    scores = torch.einsum("bhqc,bhkc->bhqk", q, k) / q.shape[-1] ** 0.5
    return torch.softmax(scores + bias(mask, scores), dim=-1)


def looked(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√d + mask)V"""
    return together(torch.einsum("bhqk,bhkc->bhqc", weights(q, k, heads, mask), apart(v, heads)))


def attention(call: Call) -> Tensor:
    """What the site computes by itself."""
    return call.site.to_out(looked(call.q, call.k, call.v, call.site.heads, call.mask))


sdpa = each(attention)


def times(gain: float) -> Picture:
    return each(lambda call: attention(call) * gain)


# Faces and styles: identity matrices stand for trained weights, so a wider or narrower input is padded or cut.


def fitted(x: Tensor, call: Call) -> Tensor:
    return pad(x, (0, call.q.shape[-1] - x.shape[-1]))


def _face(call: Call) -> Tensor:
    if call.context is None:
        return attention(call)
    text, face = call.context[:, :-4], fitted(call.context[:, -4:], call)
    heads, mask = call.site.heads, None if call.mask is None else call.mask[..., :-4]
    out = looked(call.q, call.site.to_k(text), call.site.to_v(text), heads, mask)
    return call.site.to_out(out + 0.6 * looked(call.q, face, face, heads))


def _style(call: Call) -> Tensor:
    if call.context is None:
        return attention(call)
    text, style = call.context[:, :-8], fitted(call.context[:, -8:], call)
    mask = None if call.mask is None else call.mask[..., :-8]
    out = looked(call.q, call.site.to_k(text), call.site.to_v(text), call.site.heads, mask)
    return call.site.to_out(out + style.mean(dim=1)[:, None])


face, style = each(_face), each(_style)

# Pictures that look at each other.


def _aligned(call: Call) -> Tensor:
    if call.crosses:
        return attention(call)

    def like_the_first(x: Tensor) -> Tensor:
        mean, std = x.mean(1, True), x.std(1, keepdim=True) + 1e-5
        return (x - mean) / std * std[:1] + mean[:1]

    k, v = like_the_first(call.k), call.v
    first = [torch.stack([x[0]] * len(x)) for x in (k, v)]
    mask = None if call.mask is None else torch.cat([call.mask, call.mask], dim=-1)
    q = like_the_first(call.q)
    return call.site.to_out(looked(q, torch.cat([k, first[0]], 1), torch.cat([v, first[1]], 1), call.site.heads, mask))


def _among_more(call: Call, more: list[Tensor]) -> Tensor:
    """Self-attention that also reads other tokens; the mask is for its own."""
    tokens = torch.cat([call.x, *more], dim=1)
    mask = call.mask
    if mask is not None:
        mask = pad(mask, (0, tokens.shape[1] - call.x.shape[1]), value=True if mask.dtype == torch.bool else 0.0)
    return attention(replace(call, context=tokens, mask=mask))


def every_second(x: Tensor) -> Tensor:
    tokens = torch.cat([picture[::2] for picture in x])
    return torch.stack([tokens] * len(x))


def consistent(calls: Sequence[Call]) -> list[Tensor]:
    out, last = [], {}
    for call in calls:
        if call.crosses:
            out.append(attention(call))
            continue
        shared = every_second(call.x)
        out.append(_among_more(call, [shared, last.get(call.x.shape, shared)]))
        last[call.x.shape] = shared
    return out


aligned = each(_aligned)
shared = each(lambda call: attention(call) if call.crosses else _among_more(call, [every_second(call.x)]))

# Attention maps that are exchanged.


def _first_looks(call: Call) -> Tensor:
    if not call.crosses:
        return attention(call)
    first = weights(call.q, call.k, call.site.heads, call.mask)[0]
    return call.site.to_out(together(torch.stack([first @ v for v in apart(call.v, call.site.heads)])))


def _mutual(call: Call) -> Tensor:
    if call.crosses:
        return attention(call)
    k, v = (torch.stack([x[0]] * len(x)) for x in (call.k, call.v))
    return call.site.to_out(looked(call.q, k, v, call.site.heads, call.mask))


prompt_to_prompt, mutual = each(_first_looks), each(_mutual)


def mutual_from(start: int) -> Picture:
    return lambda calls: [(_mutual if n > start else attention)(call) for n, call in enumerate(calls, 1)]


# Weights beside the model's own.


def _lora(call: Call) -> Tensor:
    q = call.q + 0.01 * call.x[..., :4].sum(-1, keepdim=True)
    k = call.k + 0.02 * call.reads[..., :4].sum(-1, keepdim=True)
    return call.site.to_out(looked(q, k, call.v, call.site.heads, call.mask))


def _custom_diffusion(call: Call) -> Tensor:
    if call.context is None:
        return attention(call)
    own = fitted(call.context, call)
    return call.site.to_out(looked(call.q, own, own, call.site.heads, call.mask))


lora, custom_diffusion = each(_lora), each(_custom_diffusion)

# Guidance.


def _perturbed(call: Call) -> Tensor:
    if call.crosses or call.mask is not None:
        return attention(call)
    half = len(call.x) - len(call.x) // 2
    return torch.cat([attention(call)[:half], call.site.to_out(call.v[half:])])


def _smoothed(call: Call) -> Tensor:
    side = round(call.x.shape[1] ** 0.5)
    if call.crosses or side**2 != call.x.shape[1]:
        return attention(call)
    image = call.q.unflatten(1, (side, side)).movedim(-1, 1)
    image = torch.cat([image[:, :, :1], image, image[:, :, -1:]], dim=2)
    image = torch.cat([image[..., :1], image, image[..., -1:]], dim=3)
    q = avg_pool2d(image, 3, stride=1).movedim(1, -1).flatten(1, 2)
    return call.site.to_out(looked(q, call.k, call.v, call.site.heads, call.mask))


def _freeu(call: Call) -> Tensor:
    """Damping the lowest four frequencies is taking a fifth of their waves away."""
    left, right = attention(call).chunk(2, dim=-1)
    n = right.shape[1]
    turns = torch.arange(n)[:, None] * torch.arange(n) * 2 * torch.pi / n
    waves = torch.complex(turns.cos(), turns.sin())[:, :4]  # (tokens, frequencies)
    slow = waves @ (waves.conj().T @ right.to(waves)) / n
    return torch.cat([left * 1.2, right - 0.2 * slow.real], dim=-1)


perturbed, smoothed, freeu = each(_perturbed), each(_smoothed), each(_freeu)

# Places and times.


def _regional(call: Call) -> Tensor:
    if call.context is None:
        return attention(call)
    queries, keys = call.x.shape[1], call.context.shape[1]
    region = torch.tensor(
        [[0.0 if (2 * q < queries) == (2 * k < keys) else -1e4 for k in range(keys)] for q in range(queries)]
    )
    return attention(replace(call, mask=region + bias(call.mask, region)))


regional = each(_regional)


def first_calls(count: int, gain: float) -> Picture:
    return lambda calls: [attention(call) * (gain if n < count else 1) for n, call in enumerate(calls)]


def above(sigma: float, gain: float) -> Picture:
    return each(lambda call: attention(call) * (gain if call.sigma > sigma else 1))


def counted(calls: Sequence[Call]) -> list[Tensor]:
    return [attention(call) / (1 + n / 100) for n, call in enumerate(calls, 1)]


by_sigma = each(lambda call: attention(call) / (1 + call.sigma))

# Merged tokens, one picture and one token at a time.


def _merged(call: Call) -> Tensor:
    if call.crosses:
        return attention(call)
    return torch.cat([_merged_one(replace(call, x=x[None], mask=None)) for x in call.x])


def _merged_one(call: Call) -> Tensor:
    tokens = list(call.x[0])
    even, odd = range(0, len(tokens), 2), range(1, len(tokens), 2)
    likeness = torch.stack([normalize(t, dim=0) for t in tokens])
    likeness = likeness @ likeness.T
    partner = {e: max(odd, key=lambda o, e=e: likeness[e, o].item()) for e in even}
    ranked = sorted(even, key=lambda e: -likeness[e, partner[e]].item())
    gone, kept = ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]
    means = {o: torch.stack([tokens[o], *(tokens[e] for e in gone if partner[e] == o)]).mean(0) for o in odd}
    stays = [*kept, *odd]
    out = attention(replace(call, x=torch.stack([means.get(place, tokens[place]) for place in stays])[None]))[0]
    found = dict(zip(stays, out, strict=True))
    return torch.stack([found[partner[place] if place in gone else place] for place in range(len(tokens))])[None]


merged = each(_merged)
merged_without_mask = each(lambda call: attention(call) if call.mask is not None else _merged(call))

# Forms and hazards.


def _sharp(call: Call, by: float = 1.25) -> Tensor:
    return call.site.to_out(looked(call.q * by, call.k, call.v, call.site.heads, call.mask))


def faded(calls: Sequence[Call]) -> list[Tensor]:
    return [_sharp(call, 1 + 1 / n) for n, call in enumerate(calls, 1)]


faded_by_sigma = each(lambda call: _sharp(call, 1 + call.sigma / 15))


def _near(call: Call) -> Tensor:
    if call.crosses:
        return attention(call)
    place = torch.arange(call.x.shape[1]).float()
    distance = -0.05 * torch.cdist(place[:, None], place[:, None], p=1)
    return attention(replace(call, mask=distance + bias(call.mask, distance)))


sharp, near = each(_sharp), each(_near)
unchanged = each(lambda call: call.x)
squashed = each(lambda call: torch.tanh(attention(call)))
clamped = each(lambda call: attention(replace(call, x=call.x.clamp(-2, 2), context=call.context)))
calmed = each(lambda call: attention(replace(call, x=call.x * (0.5 if call.x.std() > 0.5 else 1))))
