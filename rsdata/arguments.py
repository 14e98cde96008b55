"""What the commands of both packages take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from rsdata import places
from rsdata.errors import RsdataError


class Place(click.ParamType):  # type: ignore[type-arg]  # older releases take none
    """A path, or a URL such as s3://bucket/folder."""

    name = "path"

    def __init__(self, exists: bool = False, local: bool = False) -> None:
        self._exists, self._local = exists, local

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Files and folders, by the shell itself."""
        return [CompletionItem(incomplete, type="file")]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """As click asks."""
        try:
            path = places.place(value)
            if self._exists and not (path.exists() or path.is_dir()):
                self.fail(f"{str(value)!r} does not exist", param, ctx)
            if self._local and not places.is_local(path):
                self.fail(f"{value}: this is written to folders of this machine only", param, ctx)
        except (RsdataError, OSError) as error:
            self.fail(str(error), param, ctx)
        return path
