"""One step under torchrun for each set of options in argv[1] (JSON); rank 0 saves loss and gradients."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch
from test_step import CONFIG, batch_of, gradients, vit

from rsclip import ranks
from rsclip.data import Batch
from rsclip.loss import Marks
from rsclip.step import Trainer


def marked(batch: Batch) -> Batch:
    """A batch in which captions and signatures collide, also over the ranks, and a pair is missing."""
    marks = batch.marks
    captions, signatures, valid = marks.captions.clone(), marks.signatures.clone(), marks.valid.clone()
    captions[9], signatures[7], valid[10] = captions[1], signatures[2], False
    return batch._replace(marks=Marks(valid, marks.images, signatures, captions))


def share(batch: Batch) -> Batch:
    size = len(batch.images) // ranks.world()
    mine = slice(ranks.rank() * size, (ranks.rank() + 1) * size)
    return Batch(batch.images[mine], batch.tokens[mine], Marks(*(mark[mine] for mark in batch.marks)), [])


def step(options: dict) -> dict:
    trainer = Trainer(
        vit(), replace(CONFIG, **{key: value for key, value in options.items() if key != "positives"})
    )
    with torch.no_grad():
        if options.get("loss") == "siglip":
            trainer.clip.model.logit_bias = torch.nn.Parameter(torch.tensor(-3.0))
    loss = trainer.step(share(marked(batch_of(12, options.get("positives", 1)))), 1e-3, seed=1)
    (total,) = ranks.summed([float(loss)])
    weights = dict(trainer.clip.model.named_parameters())
    return {"loss": torch.tensor(total / ranks.world()), "gradients": gradients(trainer), "weights": weights}


def main() -> None:
    with ranks.together(torch.device("cpu")):
        found = [step(options) for options in json.loads(sys.argv[1])]
        others = ranks.from_all(float(found[0]["weights"]["text_projection"].sum()))
        assert len({*others}) == 1, "the ranks have gone apart"
        if ranks.rank() == 0:
            torch.save(found, sys.argv[2])


if __name__ == "__main__":
    main()
