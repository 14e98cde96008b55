"""Embeddings of a table's images and captions, for the benchmark tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsclip import model, store
from rsclip.model import Clip
from rsclip.pixels import decode
from rsdata import tables
from rsdata.errors import TableError


class Features(NamedTuple):
    """A table as a model sees it.

    images: float32 [images, dim], texts: float32 [captions, dim]; rows L2-normalised.
    owners: int64 [captions], the row of the image that each caption belongs to.
    image_ids: of `images`, in order.
    without_image, without_captions: rows left out for want of bytes or of a caption.
    unreadable: ids of images left out because their bytes could not be decoded.
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    owners: NDArray[np.int64]
    image_ids: list[str]
    without_image: int
    without_captions: int
    unreadable: list[str]


class _Row(NamedTuple):
    image_id: str
    image: bytes | None
    captions: list[str]


def embed(
    clip: Clip,
    sources: Sequence[Path],
    split: Sequence[str] = (),
    batch_size: int = 64,
    workers: int = 1,
    device: str | None = None,
) -> Features:
    """Embed images and captions in evaluation mode: Pillow transform, float32, one pass over the tables.

    split: the splits to read; without any, "test" where a table has it, else all.
    workers: threads that decode and resize (Pillow lets go of the interpreter lock). Only embeddings, ids and
    distinct captions are held; images come and go by row group.
    Raises TableError on tables that are missing or where no row is left.
    """
    files = [f for table in sources for f in tables.shards(table, store.splits_of(table, split, "test"))]
    where = model.device(device)
    clip.model.to(where).eval()
    # A caption that many images share is embedded once, so that its copies are equal to the last bit and tie.
    captions: dict[str, int] = {}
    places: list[int] = []
    owners: list[int] = []
    ids: list[str] = []
    unreadable: list[str] = []
    blocks: list[NDArray[np.float32]] = []
    missing = {"image": 0, "captions": 0}
    with ThreadPoolExecutor(max(1, workers)) as pool, torch.inference_mode():
        for rows in _chunks(_rows(files, missing), batch_size):
            pictures = list(pool.map(lambda row: _picture(clip, row), rows))
            readable = [picture for picture in pictures if picture is not None]
            if readable:
                blocks.append(model.encode_image(clip.model, torch.stack(readable).to(where)).cpu().numpy())
            for row, picture in zip(rows, pictures, strict=True):
                if picture is None:
                    unreadable.append(row.image_id)
                else:
                    owners += [len(ids)] * len(row.captions)
                    places += [captions.setdefault(caption, len(captions)) for caption in row.captions]
                    ids.append(row.image_id)
        if not ids:
            raise TableError(f"{sources[0]}: no row has both a readable image and a caption")
        texts = _embed_texts(clip, list(captions), batch_size, where)[places]
    lost = (missing["image"], missing["captions"], unreadable)
    return Features(np.concatenate(blocks), texts, np.array(owners, np.int64), ids, *lost)


def _rows(files: Sequence[Path], missing: dict[str, int]) -> Iterator[_Row]:
    """Rows with an image and a caption; the others are counted in `missing`."""
    for group in store.row_groups(files):
        for image_id, image, captions in zip(
            *(group[name].to_pylist() for name in store.COLUMNS), strict=True
        ):
            if not image or not image["bytes"]:
                missing["image"] += 1
            elif not captions:
                missing["captions"] += 1
            else:
                yield _Row(image_id, image["bytes"], captions)


def _chunks(rows: Iterator[_Row], size: int) -> Iterator[list[_Row]]:
    chunk: list[_Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _picture(clip: Clip, row: _Row) -> Tensor | None:
    try:
        return clip.transform_eval(decode(row.image or b""))
    except Exception:  # Pillow's plugins raise almost anything on broken bytes
        return None


def _embed_texts(
    clip: Clip, captions: list[str], batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    trim = model.text_prefix(clip.model) is not None
    blocks = []
    for start in range(0, len(captions), batch_size):
        tokens = model.tokenise(captions[start : start + batch_size], clip.tokenizer, trim)
        blocks.append(model.encode_text(clip.model, tokens.to(device)).cpu().numpy())
    whole: NDArray[np.float32] = np.concatenate(blocks)
    return whole
