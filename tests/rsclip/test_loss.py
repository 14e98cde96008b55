from __future__ import annotations

import math

import open_clip
import pytest
import torch
from open_clip.loss import SigLipLoss
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from rsclip.config import LOSSES
from rsclip.loss import Marks, contrastive

SCALE = torch.tensor(20.0)


def features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, 16, generator=generator), dim=-1).requires_grad_()


def marks(pairs, positives=1, hard=0, **given):
    held = {
        "valid": torch.ones(pairs, positives + hard, dtype=torch.bool),
        "images": torch.arange(pairs),
        "signatures": torch.arange(pairs) + 1,
        "captions": torch.arange(pairs * positives).view(pairs, positives),
    }
    return Marks(**{**held, **given})


def both(one, other, *leaves):
    """Values and gradients of two losses are equal."""
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(one, leaves), torch.autograd.grad(other, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_with_nothing_masked_it_is_the_loss_of_open_clip():
    images, texts = features(9), features(9, seed=1)
    ours = contrastive(images, texts[:, None], marks(9), SCALE)
    both(ours, open_clip.ClipLoss()(images, texts, SCALE), images, texts)


def test_siglip_is_the_loss_of_open_clip():
    images, texts, bias = features(9), features(9, seed=1), torch.tensor(-3.0)
    ours = contrastive(images, texts[:, None], marks(9), SCALE, bias, kind="siglip")
    both(ours, SigLipLoss()(images, texts, SCALE, bias), images, texts)


def by_hand(images, texts, negative, positives=None):
    """The formula of the module, pair by pair. negative(i, j, p): caption p of j is a negative of image i."""
    pairs, captions = texts.shape[:2]
    score = 20.0 * torch.einsum("id,jpd->ijp", images, texts)
    total = torch.tensor(0.0)
    for i in range(pairs):
        own = range(captions) if positives is None else range(positives)
        for p in own:
            others = [score[i, j, q] for j in range(pairs) for q in own if j != i and negative(i, j, q)]
            pictures = [score[j, i, p] for j in range(pairs) if j != i and negative(j, i, p)]
            for against in (others, pictures):
                whole = torch.logsumexp(torch.stack([score[i, i, p], *against]), 0)
                total = total + (whole - score[i, i, p]) / len(own) / 2
    return total / pairs


@pytest.mark.parametrize("negatives", ["all", "mask-equal", "mask-signature"])
@pytest.mark.parametrize("positives", [1, 3])
def test_masked_captions_are_no_negatives_either_way(negatives, positives):
    pairs = 6
    images, texts = features(pairs), features(pairs, positives, seed=1)
    captions = torch.arange(pairs * positives).view(pairs, positives)
    captions[4, 0] = captions[1, positives - 1]  # the images 1 and 4 share a sentence
    signatures = torch.tensor([1, 2, 3, 1, 5, 0])  # the images 0 and 3 hold the same
    names = torch.tensor([0, 1, 2, 3, 4, 2])  # the pairs 2 and 5 are of one image

    def negative(i, j, q):
        if negatives == "all":
            return True
        same = names[i] == names[j] or captions[j, q] in captions[i]
        if negatives == "mask-signature":
            same = same or signatures[i] == signatures[j] != 0
        return not same

    held = marks(pairs, positives, captions=captions, signatures=signatures, images=names)
    ours = contrastive(images, texts, held, SCALE, negatives=negatives)
    both(ours, by_hand(images, texts, negative), images, texts)


def test_masking_everything_leaves_no_loss_and_no_gradient():
    images, texts = features(4), features(4, 1, seed=1)
    held = marks(4, captions=torch.zeros(4, 1, dtype=torch.long))
    value = contrastive(images, texts, held, SCALE, negatives="mask-equal")
    assert value.item() == 0
    assert all(float(grad.abs().max()) == 0 for grad in torch.autograd.grad(value, (images, texts)))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("positives", [1, 2])
def test_pairs_that_are_not_valid_have_no_part(kind, positives):
    images, texts = features(7), features(7, positives, seed=1)
    valid = torch.ones(7, positives, dtype=torch.bool)
    valid[[2, 5]] = False
    there = [0, 1, 3, 4, 6]
    whole = contrastive(images, texts, marks(7, positives, valid=valid), SCALE, kind=kind)
    both(
        whole, contrastive(images[there], texts[there], marks(5, positives), SCALE, kind=kind), images, texts
    )


def test_an_image_with_fewer_captions_weighs_as_much_as_another():
    images, texts = features(5), features(5, 3, seed=1)
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[1, 1:] = False
    repeated = texts.clone()
    repeated[1, 1:] = texts[1, 0]  # the mean over copies of one caption is that caption
    ours = contrastive(images, texts, marks(5, 3, valid=valid), SCALE)
    score = 20 * torch.einsum("id,jpd->ijp", images, texts)
    score = score.masked_fill(~valid[None], -math.inf)
    expected = torch.tensor(0.0)
    for i in range(5):
        for p in range(int(valid[i].sum())):
            rows = torch.cat([score[i, i, p][None], score[i, [j for j in range(5) if j != i]].flatten()])
            columns = score[:, i, p]
            weight = 1 / int(valid[i].sum()) / 5 / 2
            expected = expected + weight * (
                torch.logsumexp(rows, 0) + torch.logsumexp(columns, 0) - 2 * score[i, i, p]
            )
    both(ours, expected, images, texts)


@pytest.mark.parametrize("kind", LOSSES)
def test_hard_negatives_stand_against_their_own_image_alone(kind):
    images, texts, hard = features(5), features(5, 1, seed=1), features(5, 2, seed=2)
    valid = torch.ones(5, 3, dtype=torch.bool)
    valid[3, 2] = False  # image 3 has one hard negative only
    ours = contrastive(images, torch.cat([texts, hard], 1), marks(5, 1, 2, valid=valid), SCALE, kind=kind)
    score = 20 * images @ texts[:, 0].T
    own = 20 * torch.einsum("id,ihd->ih", images, hard).masked_fill(~valid[:, 1:], -math.inf)
    if kind == "siglip":
        labels = 2 * torch.eye(5) - 1
        expected = (-logsigmoid(labels * score).sum() - logsigmoid(-own)[valid[:, 1:]].sum()) / 5
    else:
        right = torch.arange(5)
        expected = (cross_entropy(torch.cat([score, own], 1), right) + cross_entropy(score.T, right)) / 2
    both(ours, expected, images, texts, hard)
