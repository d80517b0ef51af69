"""The figures that `rmt explain` writes: one per image, or one of the heads' reach over all images."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from rmt.atomic import replace_file
from rmt.inference.drawing.fonts import plain_text
from rmt.output_folder import create_folder, require_empty, unused_path

FOLDER = Path("explanations")
"""Where figures go without `--output`."""


class FigureFolder:
    """A new or empty folder for figures: `output`, or `explanations`, `explanations-2`, ….

    Args:
        stems: names of the files without `.png`; different ones.
    Raises:
        RMTError: `output` is a file or holds files already.
    """

    def __init__(self, output: Path | None, stems: Sequence[str]) -> None:
        self.path: Path = unused_path(FOLDER) if output is None else output
        require_empty(self.path)
        self.stems = stems

    def write(self, number: int, figure: Figure) -> str:
        """Writes figure `number` and returns its path."""
        create_folder(self.path)
        target = self.path / f"{self.stems[number]}.png"
        with plain_text(), replace_file(target) as draft:
            figure.savefig(draft, dpi=80, format="png")
        return str(target)
