"""XML files, parsed safely."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from rsdata import files
from rsdata.errors import AnnotationError


def parse(root: Path, path: str, most: int = files.LABEL) -> tuple[ElementTree.Element, str]:
    """The tree of a file, and the encoding that fitted.

    most: bytes that it may have. Raises AnnotationError where it has more or is not well-formed (E01), is
    empty (E09), or declares a document type or an entity (E29).
    """
    data = files.read_bytes(root, path, most)
    if not data.strip():
        raise AnnotationError(path, 0, "the file is empty", "E09")
    plain = data.replace(b"\0", b"")
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        raise AnnotationError(path, 0, "a document type or entity declaration is refused", "E29")
    try:
        return ElementTree.fromstring(data), "utf-8-sig"
    except ElementTree.ParseError as error:
        content, encoding = files.decode(data)
        if encoding == "utf-8-sig":
            raise AnnotationError(path, error.position[0], f"not well-formed: {error}") from error
    except (ValueError, LookupError):
        content, encoding = files.decode(data)
    try:
        return ElementTree.fromstring(files.undeclared(content)), encoding
    except (ElementTree.ParseError, ValueError) as error:
        line = error.position[0] if isinstance(error, ElementTree.ParseError) else 0
        raise AnnotationError(path, line, f"not well-formed: {error}") from error
