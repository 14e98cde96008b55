"""Every error that a user can cause.

RsdataError
├── RecipeError       a recipe, its options, or a dump that does not fit it
├── AnnotationError   an annotation file (also a ValueError): path, line, why
├── TableError        a table that is missing, unfinished or not ours
└── UnfinishedError   a run that stopped before its end, and goes on when it is repeated
"""

from __future__ import annotations


class RsdataError(Exception):
    """Root of all errors that rsdata and rsclip raise on bad input or wrong use."""


class RecipeError(RsdataError):
    """A recipe is wrong, or no dump of it is found where the user pointed."""


class AnnotationError(RsdataError, ValueError):
    """An annotation that cannot be read, with its place.

    Attributes:
        path: annotation file, relative to the dump where known.
        line: 1-based line, 0 where the whole file is meant.
        why: what is wrong and what was expected.
        code: the failure code of docs/failures.md, such as "E01".
    """

    def __init__(self, path: str, line: int, why: str, code: str = "E01") -> None:
        super().__init__(f"{path}:{line}: {code} {why}" if line else f"{path}: {code} {why}")
        self.path, self.line, self.why, self.code = path, line, why, code


class TableError(RsdataError):
    """A table is missing, unfinished, or lacks the columns of the schema."""


class UnfinishedError(RsdataError):
    """A run stopped before its end (disk full, a worker that died); what is done is kept for the next one."""
