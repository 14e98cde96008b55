"""Find the images of a table that look most like a picture.

    python examples/similar_images.py EMBEDDED PICTURE CHECKPOINT

EMBEDDED is what `rsclip embed TABLE --checkpoint CHECKPOINT -o EMBEDDED` wrote: features of unit length, so
that the dot product is the cosine similarity.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset

from rsclip import model
from rsclip.encode import Encoder, Picture, image_key


def main(embedded: Path, picture: Path, checkpoint: str, most: int = 5) -> None:
    """Print similarity and id of the nearest images, best first."""
    held = pyarrow.dataset.dataset(embedded / "data", format="parquet").to_table()
    features = np.stack(held["embedding"].to_numpy())
    encoder = Encoder(model.load(checkpoint))
    data = picture.read_bytes()
    key = image_key(hashlib.sha256(data).hexdigest())
    _, found, unreadable = encoder.images([Picture(key, data)])
    if unreadable:
        sys.exit(f"{picture}: no image that can be decoded")
    scores = features @ found[0]
    for place in np.argsort(-scores, kind="stable")[:most]:
        print(f"{scores[place]:.4f}\t{held['image_id'][int(place)]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
