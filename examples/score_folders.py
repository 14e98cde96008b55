"""Score a checkpoint on a folder of scene classes (FOLDER/CLASS/image): accuracy, and what is taken for what.

    python examples/score_folders.py FOLDER CHECKPOINT [MODEL]

CHECKPOINT is the folder of a run, or with MODEL (a name of open_clip) a file of weights or a tag such as
openai.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from rsclip import model
from rsclip.encode import Encoder
from rsclip.tasks import zeroshot
from rsdata import convert, recipes
from rsdata.shard import Options


def main(folder: Path, checkpoint: str, name: str | None = None) -> None:
    """Make a table of the folder, score on it, print."""
    with tempfile.TemporaryDirectory() as kept:
        table = Path(kept) / "scenes"
        recipe = recipes.from_format("folders", "*/*.*")
        convert.convert([folder], table, recipe, Options(captions="none"))
        result = zeroshot.run(Encoder(model.load(checkpoint, name)), [table], names=["remoteclip"])
    print(zeroshot.table(result))
    confusion, classes = result["confusion"], result["classes"]
    wrong = [
        (count, classes[truth], classes[guess])
        for truth, row in enumerate(confusion)
        for guess, count in enumerate(row)
        if truth != guess and count
    ]
    for count, truth, guess in sorted(wrong, reverse=True)[:5]:
        print(f"{count} x {truth} taken for {guess}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
