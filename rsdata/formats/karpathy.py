"""Karpathy-style caption json (RSICD, RSITMD, UCM-captions, Sydney-captions), and NWPU-Captions' own.

    {"dataset": "rsicd", "images": [{"filename": "airport_1.jpg", "imgid": 0, "split": "train",
     "sentences": [{"raw": "many planes are parked …", "tokens": ["many", …], "sentid": 0}, …]}]}

NWPU-Captions has the same per scene class, with its five captions in `raw`, `raw_1` … `raw_4`:

    {"airplane": [{"filename": "airplane_001.jpg", "split": "train", "raw": "…", "raw_1": "…"}]}

Captions are kept as published, repeats included, because recall needs all of an image's captions. Blank
ones (RSITMD's first release has twenty) are dropped and listed. Source: the retrieval script of RemoteCLIP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsdata import files
from rsdata.classes import Classes
from rsdata.errors import AnnotationError
from rsdata.records import Record, Rejection

ONE_FILE = "split"
NAMES_SPLITS = True
PLACES = ""
LAYOUTS = [("images/**.*", "dataset*.json"), ("imgs/**.*", "dataset*.json"), ("**.*", "**.json")]


def read(root: Path, path: str, classes: Classes) -> Iterator[Record | Rejection]:
    """One Record an image, in the order of the file, its split and captions set.

    Raises AnnotationError where the file is no JSON (E01) or has no `images`.
    """
    text, encoding = files.read_text(root, path, files.DOCUMENT)
    yield from files.foreign(path, encoding)
    seen: dict[str, int] = {}
    found = False
    for element in files.scan_json(text, path):
        if element.key != "images" and not _is_scene(element.value):
            continue
        found = True
        if element.index < 0 and element.value == []:
            continue
        try:
            if element.key == "images":
                record = _record(path, element.value)
            else:
                record = _scene(path, element.key, element.value, classes)
        except ValueError as error:
            name = element.value.get("filename") if isinstance(element.value, dict) else None
            where = f"{element.key}[{element.index}]"
            yield Rejection("rejected", "E05", path, element.line, str(name or where), f"{where}: {error}")
            continue
        if record.image in seen:
            why = f"{record.image} was described before, at line {seen[record.image]}"
            yield Rejection("rejected", "E16", path, element.line, record.image, why)
            continue
        seen[record.image] = element.line
        captions = []
        for number, caption in enumerate(record.captions):
            if caption.strip():
                captions.append(caption)
            else:
                why = f"caption {number + 1} is blank"
                yield Rejection("dropped", "E34", path, element.line, record.image, why)
        yield record._replace(captions=captions, place=element.line)
    if not found:
        raise AnnotationError(path, 0, "not a Karpathy caption file: no images")


def _is_scene(value: Any) -> bool:
    """Whether an element of an array is an image of NWPU-Captions."""
    return isinstance(value, dict) and "filename" in value and "raw" in value


def _scene(path: str, scene: str, value: dict[str, Any], classes: Classes) -> Record:
    name, split = value["filename"], value.get("split", "")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("no filename")
    captions = [value[key] for key in ("raw", *(f"raw_{number}" for number in range(1, 5))) if key in value]
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError("a raw that is no text")
    split = split if isinstance(split, str) else ""
    name = name if "/" in name else f"{scene}/{name}"
    return Record(name, captions=captions, label=classes[scene] or None, split=split, annotation=path)


def _record(path: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    name = value.get("filename")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("no filename")
    if isinstance(folder := value.get("filepath"), str) and folder:
        name = f"{folder.rstrip('/')}/{name}"
    split = value.get("split", "")
    sentences = value.get("sentences")
    if not isinstance(sentences, list):
        raise ValueError("no list of sentences")
    captions = [_caption(sentence) for sentence in sentences]
    return Record(name, captions=captions, split=split if isinstance(split, str) else "", annotation=path)


def _caption(sentence: Any) -> str:
    if isinstance(sentence, str):
        return sentence
    if isinstance(sentence, dict):
        if isinstance(raw := sentence.get("raw"), str):
            return raw
        if isinstance(tokens := sentence.get("tokens"), list):
            return " ".join(map(str, tokens))
    raise ValueError("a sentence without raw text or tokens")


def write(path: Path, records: Sequence[Record]) -> None:
    """All Records of a dataset as one file."""
    images = []
    sentid = 0
    for imgid, record in enumerate(records):
        sentences = []
        for caption in record.captions:
            tokens = caption.replace(".", " ").lower().split()
            sentences.append({"tokens": tokens, "raw": caption, "imgid": imgid, "sentid": sentid})
            sentid += 1
        images.append(
            {
                "filename": record.image,
                "imgid": imgid,
                "split": record.split,
                "sentids": [sentence["sentid"] for sentence in sentences],
                "sentences": sentences,
            }
        )
    document = {"images": images, "dataset": path.stem.removeprefix("dataset_")}
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
