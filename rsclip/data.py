"""Tables as shuffled batches of images, each with one of its captions.

A Parquet row group of a hundred images must be read whole to get at one of them, so shuffling a corpus over
Parquet would read it a hundredfold. The three columns that training needs are therefore copied once, in
order, into an uncompressed Arrow IPC file that all workers map into memory: any row is a pointer away, the
kernel's page cache is the only cache, and what this process holds is eight bytes a row.

Everything random is a pure function of (seed, epoch, row): the order, the caption, the crop. So a run can
stop after any step and go on as if it had not, with any number of workers.
"""

from __future__ import annotations

import hashlib
import io
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rsdata import tables
from rsdata.errors import TableError
from rsdata.records import SCHEMA

Transform = Callable[[Image.Image], Tensor]
Tokenise = Callable[[list[str]], Tensor]

COLUMNS = ["image_id", "image", "captions"]
AUGMENTATIONS = ("none", "remoteclip")


class Batch(NamedTuple):
    """Pairs as the model takes them.

    images: float32 [pairs, 3, height, width], normalised; tokens: int64 [pairs, length].
    unreadable: image ids that this batch lacks because their bytes could not be decoded.
    """

    images: Tensor
    tokens: Tensor
    unreadable: list[str]

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._replace(
            images=self.images.to(device, non_blocking=True), tokens=self.tokens.to(device, non_blocking=True)
        )


def splits_of(table: Path, wanted: Sequence[str], usual: str) -> tuple[str, ...]:
    """The splits to read: those wanted, else the usual one where the table has it, else all."""
    held = tables.manifest(table)["splits"]
    return tuple(wanted) or ((usual,) if usual in held else tuple(held))


def fingerprint(sources: Sequence[tuple[Path, Sequence[str]]]) -> str:
    """SHA-256 of what the tables hold: their manifests and the splits read, not where they lie."""
    digest = hashlib.sha256()
    for table, splits in sources:
        digest.update(manifest_digest(table).encode() + "\0".join(splits).encode() + b"\n")
    return digest.hexdigest()


def manifest_digest(table: Path) -> str:
    """SHA-256 of the manifest that closed the table."""
    tables.manifest(table)
    return hashlib.sha256((table / "manifest.json").read_bytes()).hexdigest()


def row_groups(files: Sequence[Path]) -> Iterator[pa.Table]:
    """The columns COLUMNS, one Parquet row group at a time.

    Raises TableError on a file that is no Parquet, or lacks a column.
    """
    for path in files:
        try:
            with tables.parquet(path) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=COLUMNS).select(COLUMNS)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise TableError(f"{path}: {error}") from error


def copy_columns(files: Sequence[Path], copy: Path) -> None:
    """Write the rows of `files`, in order, to the Arrow IPC file `copy`; it appears whole or not at all."""
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS])
    with replacing(copy) as temporary, pa.ipc.new_file(str(temporary), schema) as writer:
        for group in row_groups(files):
            writer.write_table(group.cast(schema).combine_chunks())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; on success it takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def mix(*parts: int | str) -> int:
    """A 64-bit seed from `parts`, the same on every machine; parts that differ give unrelated seeds."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


class ImageCaptions(Dataset[tuple[Tensor | None, str, str]]):
    """The usable rows of an Arrow copy; item (epoch, i) is row i as that epoch sees it.

    copy: file written by `copy_columns`. transform: PIL image to float32 [3, height, width].
    augment: one of AUGMENTATIONS. Rows without a caption or without image bytes are not usable and are
    counted in `without_captions` and `without_image`.
    """

    def __init__(self, copy: Path, transform: Transform, augment: str = "none", seed: int = 0) -> None:
        self.copy, self.transform, self.augment, self.seed = str(copy), transform, augment, seed
        reader = _reader(self.copy)
        sizes, captioned, pictured = [0], [], []
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)  # offsets and validity bits only: no image is paged in
            sizes.append(batch.num_rows)
            captioned.append(pc.fill_null(pc.greater(pc.list_value_length(batch["captions"]), 0), False))
            pictured.append(batch["image"].is_valid().to_numpy(False) & ~_no_bytes(batch["image"]))
        self.starts = np.cumsum(sizes)
        has_caption, has_image = _joined(captioned), _joined(pictured)
        self.rows = np.flatnonzero(has_caption & has_image)
        self.without_image = int((~has_image).sum())
        self.without_captions = int((has_image & ~has_caption).sum())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor | None, str, str]:
        epoch, index = item
        image_id, data, captions = self.row(index)
        caption = captions[mix(self.seed, epoch, image_id, "caption") % len(captions)]
        try:
            picture = decode(data)
        except Exception:  # Pillow's plugins raise almost anything on broken bytes
            return None, caption, image_id
        with seeded(mix(self.seed, epoch, image_id, "augment")):
            image = self.transform(picture)
            return (turned(image) if self.augment == "remoteclip" else image), caption, image_id

    def row(self, index: int) -> tuple[str, bytes, list[str]]:
        """Image id, encoded image and captions of usable row `index`."""
        row = int(self.rows[index])
        batch = int(np.searchsorted(self.starts, row, side="right")) - 1
        record = _reader(self.copy).get_batch(batch).slice(row - int(self.starts[batch]), 1)
        (image_id,), (image,), (captions,) = (column.to_pylist() for column in record.columns)
        return image_id, image["bytes"], captions


@lru_cache(maxsize=4)
def _reader(copy: str) -> pa.RecordBatchFileReader:
    """The mapped file, opened once in each process, so that a dataset travels to workers as a mere path."""
    return pa.ipc.open_file(pa.memory_map(copy))


def _no_bytes(image: pa.StructArray) -> NDArray[np.bool_]:
    size = pc.fill_null(pc.binary_length(image.field("bytes")), 0)
    return np.asarray(pc.equal(size, 0), dtype=bool)


def _joined(parts: list[Any]) -> NDArray[np.bool_]:
    return np.concatenate([np.asarray(part, dtype=bool) for part in parts]) if parts else np.empty(0, bool)


def decode(data: bytes) -> Image.Image:
    """An encoded image as RGB. Raises what Pillow raises on bytes it cannot read."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator starts from `seed` inside, and goes on as before outside.

    Only that generator: torchvision draws from it, and `torch.manual_seed` would also touch the GPU's.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def turned(image: Tensor) -> Tensor:
    """`image` [3, height, width] mirrored or not and turned by 0, 90, 180 or 270 degrees, at random.

    With open_clip's random crop and resize before it, this is the augmentation of RemoteCLIP (section IV-A).
    A non-square image is turned by 0 or 180 degrees. No caption of ours speaks of left or right.
    """
    mirror, turns = torch.randint(0, 2, ()).item(), int(torch.randint(0, 4, ()))
    if mirror:
        image = image.flip(-1)
    if image.shape[-1] != image.shape[-2]:
        turns -= turns % 2
    return torch.rot90(image, turns, (-2, -1)).contiguous()


def steps_in_epoch(rows: int, batch_size: int) -> int:
    """Steps in an epoch. The rows left over by whole batches sit this epoch out; each epoch it is others."""
    return max(1, rows // batch_size)


def batches(rows: int, batch_size: int, seed: int, start: int, stop: int) -> Iterator[list[tuple[int, int]]]:
    """The (epoch, row) pairs of each step in [start, stop); each epoch is a permutation of its own."""
    per_epoch = steps_in_epoch(rows, batch_size)
    order, shuffled = np.empty(0, np.int64), -1
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        if epoch != shuffled:
            key = np.array([mix(seed, "order"), epoch], np.uint64)
            order, shuffled = np.random.Generator(np.random.Philox(key=key)).permutation(rows), epoch
        yield [(epoch, int(row)) for row in order[place * batch_size : (place + 1) * batch_size]]


def collate(items: Collection[tuple[Tensor | None, str, str]], tokenise: Tokenise) -> Batch:
    """Stack what could be decoded, and name what could not."""
    readable = [(image, caption) for image, caption, _ in items if image is not None]
    images = torch.stack([image for image, _ in readable]) if readable else torch.empty(0)
    tokens = tokenise([caption for _, caption in readable]) if readable else torch.empty(0, dtype=torch.long)
    return Batch(images, tokens, [image_id for image, _, image_id in items if image is None])


def loader(
    dataset: ImageCaptions,
    tokenise: Tokenise,
    batch_size: int,
    start: int,
    stop: int,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader[Any]:
    """Batches for the steps in [start, stop): one loader for the whole run, so no gap between epochs."""
    return DataLoader(
        dataset,
        batch_sampler=batches(len(dataset), batch_size, dataset.seed, start, stop),
        num_workers=workers,
        collate_fn=partial(collate, tokenise=tokenise),
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_parent,
    )


def _leave_signals_to_parent(_: int) -> None:
    """Ctrl-C reaches the whole process group; the parent alone decides when to stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
