"""Images and texts to features, each once: what was embedded before is read from the cache.

CACHE/<first digits of the weights' digest>/
    about.json               the model that the features are of
    images-<digest>.npy      some thousand rows: key, feature before and after the projection
    texts-<digest>.npy       the same of texts: key, feature

A key is the first 16 bytes of a digest of the image's bytes, or of the text: the same image in two tables is
embedded once. Files are only added, each in one step, so several programs may use a cache at a time, and what
a killed run had done is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from rsclip import model
from rsclip.model import Clip
from rsclip.pixels import Pixels, as_tensor
from rsclip.store import replacing
from rsdata.errors import RsdataError

Floats = NDArray[np.float32]
Keys = NDArray[np.bytes_]

SPEC = 1
"""Of how features are made and stored; part of the digest that a cache goes by."""
SEGMENT = 4096
"""Rows after which a file of the cache is written."""
AHEAD = 2
"""Batches that are decoded while a GPU works. A CPU has no time to spare for that: it takes turns."""


class Picture(NamedTuple):
    """An image to embed: its key, and its bytes, None where the cache has its features."""

    key: bytes
    data: bytes | None


def image_key(sha256: str) -> bytes:
    """The key of an image, by the SHA-256 of its bytes in hexadecimal."""
    return bytes.fromhex(sha256)[:16]


def text_key(text: str) -> bytes:
    """The key of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Encoder:
    """A model, and the features it has made.

    Images go through open_clip's evaluation transform on Pillow, everything is float32. threads: that decode
    and resize (Pillow lets go of the interpreter lock). cache: folder; without one nothing is kept on disk.
    Raises RsdataError where the device is not there, the cache cannot be written, or features are not finite.
    """

    def __init__(
        self,
        clip: Clip,
        batch_size: int = 64,
        threads: int = 2,
        device: str | None = None,
        cache: Path | None = None,
    ) -> None:
        self.clip, self.batch_size = clip, batch_size
        self.device = model.device(device)
        clip.model.to(self.device).eval()
        self._pixels = Pixels(clip.preprocess)
        self._mean, self._std = (
            torch.tensor(clip.preprocess[name], device=self.device).view(3, 1, 1) for name in ("mean", "std")
        )
        self._threads = max(1, threads)
        self._ahead = 0 if self.device.type == "cpu" else AHEAD
        folder = _folder(cache, clip) if cache else None
        self._images, self._texts = Shelf(folder, "images"), Shelf(folder, "texts")

    def has_image(self, key: bytes) -> bool:
        """Whether the features of an image are there already."""
        return key in self._images

    def images(
        self, pictures: Iterable[Picture], total: int | None = None
    ) -> tuple[Floats, Floats, list[int]]:
        """Embed images.

        Returns float32 [images, width], the features before the projection; float32 [images, dim], those
        after it, L2-normalised; and the places of images that cannot be decoded, which have no row. total:
        how many pictures there are, for the progress on stderr.
        """
        keys: list[bytes] = []
        unreadable: list[int] = []
        count = 0
        bar = tqdm(pictures, total=total, unit="image", desc="embedding", file=sys.stderr, disable=None)
        with ThreadPoolExecutor(self._threads) as pool, torch.inference_mode(), bar:
            for batch, decoded in self._decoded(pool, bar):
                lost = {p.key for p, each in zip(batch, decoded, strict=True) if p.data and each is None}
                fresh = {p.key: each for p, each in zip(batch, decoded, strict=True) if each is not None}
                if fresh:
                    tower, joint = self.towers(torch.stack(list(fresh.values())))
                    self._images.add(list(fresh), tower=tower, joint=joint)
                keys += [picture.key for picture in batch if picture.key not in lost]
                places = range(count, count + len(batch))
                unreadable += [at for at, picture in zip(places, batch, strict=True) if picture.key in lost]
                count += len(batch)
        self._images.flush()
        tower, joint = self._images.take(keys, ("tower", "joint"))
        return tower, joint, unreadable

    def pixels(self, picture: Image.Image) -> Tensor:
        """An RGB picture as `towers` takes it, by the evaluation transform: uint8 [3, height, width]."""
        for transform in self._pixels.as_evaluated:
            picture = transform(picture)
        return as_tensor(picture)

    def towers(self, images: Tensor) -> tuple[Floats, Floats]:
        """Features of uint8 [images, 3, height, width], before and after the projection."""
        floats = images.to(self.device).float().div(255).sub(self._mean).div(self._std)
        tower, joint = (each.cpu().numpy() for each in model.image_features(self.clip.model, floats))
        _check_finite(joint, "images")
        return tower, joint

    def texts(self, texts: Sequence[str], normalised: bool = True) -> Floats:
        """Embed texts: float32 [texts, dim], as the tower gives them or L2-normalised; equal ones once."""
        keys = [text_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._texts}
        todo = list(new.items())
        trim = model.text_prefix(self.clip.model) is not None
        with torch.inference_mode():
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                tokens = model.tokenise([text for _, text in batch], self.clip.tokenizer, trim)
                found = model.encode_text(self.clip.model, tokens.to(self.device), normalised=False)
                raw = found.float().cpu().numpy()
                _check_finite(raw, "texts")
                self._texts.add([key for key, _ in batch], joint=raw)
        self._texts.flush()
        (raw,) = self._texts.take(keys, ("joint",))
        return normalize(torch.from_numpy(raw), dim=-1).numpy() if normalised and len(raw) else raw

    def _decoded(
        self, pool: ThreadPoolExecutor, pictures: Iterable[Picture]
    ) -> Iterator[tuple[list[Picture], list[Tensor | None]]]:
        ahead: deque[tuple[list[Picture], list[Future[Tensor | None]]]] = deque()
        for batch in _chunks(pictures, self.batch_size):
            ahead.append((batch, [pool.submit(self._picture, picture.data) for picture in batch]))
            if len(ahead) > self._ahead:
                oldest, futures = ahead.popleft()
                yield oldest, [future.result() for future in futures]
        for oldest, futures in ahead:
            yield oldest, [future.result() for future in futures]

    def _picture(self, data: bytes | None) -> Tensor | None:
        if data is None:
            return None
        try:
            return self._pixels(data, 0)
        except Exception:  # Pillow's plugins raise almost anything on broken bytes
            return None


def _check_finite(features: Floats, what: str) -> None:
    if not np.isfinite(features).all():
        raise RsdataError(
            f"the model's features of {what} are not numbers (NaN or infinity): damaged weights?"
        )


def digest(clip: Clip) -> str:
    """SHA-256 of a model: its weights, configuration and transform."""
    about = {"model": clip.config, "preprocess": clip.preprocess, "spec": SPEC}
    found = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(clip.model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def default_cache() -> Path:
    """Where features are kept unless told otherwise: $XDG_CACHE_HOME/rsclip, else ~/.cache/rsclip."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsclip"


class Shelf:
    """Features of one kind by key, in memory and, where there is a folder, in its files."""

    def __init__(self, folder: Path | None, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._segments: list[NDArray[Any]] = []
        self._place: dict[bytes, tuple[int, int]] = {}
        self._fresh: list[tuple[list[bytes], dict[str, Floats]]] = []
        self._pending: set[bytes] = set()
        for path in sorted(folder.glob(f"{kind}-*.npy")) if folder else ():
            try:
                held = np.load(path, mmap_mode="r", allow_pickle=False)
                self._hold(held)
            except (ValueError, OSError, KeyError, IndexError, TypeError, EOFError) as error:
                raise RsdataError(f"{path}: cannot be read, remove it: {error}") from error

    def __contains__(self, key: bytes) -> bool:
        return key in self._place or key in self._pending

    def add(self, keys: list[bytes], **columns: Floats) -> None:
        """Take in rows; they reach the disk by thousands."""
        self._fresh.append((keys, columns))
        self._pending.update(keys)
        if len(self._pending) >= SEGMENT:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if not self._fresh:
            return
        keys = [key for each, _ in self._fresh for key in each]
        columns = {
            name: np.concatenate([each[name] for _, each in self._fresh]) for name in self._fresh[0][1]
        }
        kind = [("key", "V16"), *((name, "<f4", column.shape[1]) for name, column in columns.items())]
        segment = np.empty(len(keys), kind)
        segment["key"] = np.frombuffer(b"".join(keys), "V16")
        for name, column in columns.items():
            segment[name] = column
        if self._folder:
            name = hashlib.sha256(segment["key"].tobytes()).hexdigest()[:16]
            try:
                with replacing(self._folder / f"{self._kind}-{name}.npy") as path, path.open("wb") as file:
                    np.save(file, segment, allow_pickle=False)
            except OSError as error:
                raise RsdataError(f"{self._folder}: the cache cannot be written: {error}") from error
        self._hold(segment)
        self._fresh.clear()
        self._pending.clear()

    def take(self, keys: Sequence[bytes], columns: Sequence[str]) -> list[Floats]:
        """Columns of the rows with these keys, in their order: float32 [keys, …] each."""
        if not keys:
            return [np.empty((0, 0), np.float32) for _ in columns]
        places = np.array([self._place[key] for key in keys], np.int64)
        found = []
        for name in columns:
            taken = np.empty((len(keys), *self._segments[places[0, 0]].dtype[name].shape), np.float32)
            for number in np.unique(places[:, 0]):
                here = np.flatnonzero(places[:, 0] == number)
                taken[here] = self._segments[number][name][places[here, 1]]
            found.append(taken)
        return found

    def _hold(self, segment: NDArray[Any]) -> None:
        number = len(self._segments)
        self._segments.append(segment)
        for row, key in enumerate(segment["key"].tolist()):
            self._place.setdefault(key, (number, row))


def _folder(cache: Path, clip: Clip) -> Path:
    weights = digest(clip)
    folder = cache / weights[:16]
    try:
        with replacing(folder / "about.json") as path:
            about = {"weights": weights, "model": clip.config, "preprocess": clip.preprocess}
            path.write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as error:
        raise RsdataError(
            f"{folder}: the cache cannot be written: {error}; name another (--cache)"
        ) from error
    return folder


def _chunks(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    chunk: list[Picture] = []
    for picture in pictures:
        chunk.append(picture)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
