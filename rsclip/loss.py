"""Contrastive losses for captions that repeat.

Captions made by rules collide: in a batch many images have the very same one, and InfoNCE pushes an image
away from a sentence that is true of it. Here a pair may be no negative, an image may have several positives,
and it may have negatives of its own: sentences that its boxes prove false.

Each image i has the loss

    mean over its captions p of   log(exp(s_ip) + sum over its negatives n of exp(s_in)) - s_ip

and each caption the same over images; the loss is the mean of both sides. With one caption an image, and all
others as negatives, that is InfoNCE (Radford et al. 2021, open_clip's ClipLoss). "siglip" is the sigmoid loss
over the same positives and negatives (Zhai et al. 2023, open_clip's SigLipLoss).

Over several ranks each computes the rows of its own images and captions against those of all. Gradients flow
through the gathered features, so that the mean of the ranks' gradients is that of the whole batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rsclip import ranks

_NEVER = -1e4
"""The logit of what is no negative: its exponential is 0, and unlike -inf it has a gradient that is 0."""


class Marks(NamedTuple):
    """What says which captions of a batch are of which image. P captions and H hard negatives an image.

    valid: bool [pairs, P + H], whether that text, and its image, are there at all.
    images, signatures: int64 [pairs], equal for the same image; for images with the same classes and counts
        (0: not known). captions: int64 [pairs, P], equal for the same text.
    """

    valid: Tensor
    images: Tensor
    signatures: Tensor
    captions: Tensor


def contrastive(
    images: Tensor,
    texts: Tensor,
    marks: Marks,
    scale: Tensor,
    bias: Tensor | None = None,
    kind: str = "infonce",
    negatives: str = "all",
) -> Tensor:
    """The loss of this rank, float32 scalar; the mean over ranks is that of the global batch.

    images: float [pairs, dim]; texts: float [pairs, P + H, dim], captions first, then hard negatives; rows
    L2-normalised. scale: factor on the cosine similarities; bias: added to them ("siglip").
    negatives: "all" texts of other pairs; "mask-equal": but those that equal a caption of this image;
        "mask-signature": and but those of images with the same classes and counts.

    Pairs that are not valid have no part in it. Hard negatives stand against their own image only: of another
    one they may be true.
    """
    pairs, positives = marks.captions.shape
    images, captions, hard = images.float(), texts[:, :positives].float(), texts[:, positives:].float()
    valid, hard_valid = marks.valid[:, :positives], marks.valid[:, positives:]
    every = Marks(*(ranks.gathered(mark) for mark in (valid, *marks[1:])))
    all_images = ranks.gathered(images, with_gradient=True)
    all_captions = ranks.gathered(captions, with_gradient=True)
    start = ranks.rank() * pairs

    # [pairs, all pairs, P] and [pairs, P, all pairs]
    to_texts = scale * torch.einsum("id,jpd->ijp", images, all_captions)
    excluded = ~every.valid[None] | _own(pairs, len(all_images), start, images.device)[:, :, None]
    excluded = excluded | _no_negatives(marks, every, negatives)
    weights = valid / valid.sum(1, keepdim=True).clamp(min=1)
    own = torch.arange(pairs, device=images.device)
    share = ranks.world() / every.valid.any(1).sum().clamp(min=1)
    against_hard = scale * torch.einsum("id,ihd->ih", images, hard)

    if kind == "siglip":
        shift = 0.0 if bias is None else bias
        right = softplus(-(to_texts[own, start + own] + shift)).mul(valid).sum()
        excluded = excluded | ~valid.any(1)[:, None, None]
        wrong = softplus(to_texts + shift).masked_fill(excluded, 0.0).sum()
        wrong = wrong + softplus(against_hard + shift).mul(hard_valid).sum()
        return share * (right + wrong)

    to_images = scale * torch.einsum("ipd,jd->ipj", captions, all_images)
    of_images = to_texts.masked_fill(excluded, _NEVER).flatten(1).logsumexp(1)
    if hard.shape[1]:
        against_hard = against_hard.masked_fill(~hard_valid, _NEVER)
        of_images = torch.logsumexp(torch.cat([of_images[:, None], against_hard], 1), 1)
    image_side = softplus(of_images[:, None] - to_texts[own, start + own])

    excluded = ~every.valid.any(1) | _own(pairs, len(all_images), start, images.device)
    excluded = excluded[:, None] | _no_negatives(every, marks, negatives).permute(1, 2, 0)
    of_texts = to_images.masked_fill(excluded, _NEVER).logsumexp(2)
    text_side = softplus(of_texts - to_images[own, :, start + own])
    return share * ((image_side + text_side) * weights).sum() / 2


def _own(pairs: int, every: int, start: int, device: torch.device) -> Tensor:
    """bool [pairs, every]: where a pair meets itself."""
    return torch.arange(every, device=device) == torch.arange(start, start + pairs, device=device)[:, None]


def _no_negatives(images: Marks, texts: Marks, negatives: str) -> Tensor:
    """bool [pairs of `images`, pairs of `texts`, P]: the texts that may be true of the image."""
    if negatives == "all":
        return torch.zeros(1, 1, 1, dtype=torch.bool, device=images.images.device)
    same = (images.images[:, None] == texts.images)[:, :, None]
    if negatives == "mask-signature":
        known = (images.signatures != 0)[:, None]
        same = same | ((images.signatures[:, None] == texts.signatures) & known)[:, :, None]
    for place in range(images.captions.shape[1]):
        same = same | (images.captions[:, place, None, None] == texts.captions)
    return same
