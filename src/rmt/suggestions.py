"""What a user may have meant by a name or a path that is not there, for the line of an error."""

import difflib
from collections.abc import Iterable
from pathlib import Path


def suggest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns "did you mean A, B or C?" of the known names that begin with `name` or resemble it, `otherwise` if none
    does. Case is ignored."""
    spelled = {each.casefold(): each for each in known}
    word = name.casefold()
    longer = [each for each in spelled if len(word) > 3 and each.startswith(word)]
    near = dict.fromkeys([*longer[:2], *difflib.get_close_matches(word, spelled, n=3)])
    return f"did you mean {' or '.join(spelled[each] for each in list(near)[:3])}?" if near else otherwise


def nearest_run(path: Path, file: str) -> str:
    """Returns "; the nearest run folder is F" for a path that is no run folder, "" if there is none.

    Of the folders that hold `file`, it is the one that `path` is in; otherwise, of those in `path`, beside it and in
    `runs`, the one of the most similar name, or the latest if no name is similar.
    """
    if (path.parent / file).is_file():
        return f"; the nearest run folder is {path.parent}"
    runs = [found.parent for place in (path, path.parent, Path("runs")) for found in place.glob(f"*/{file}")]

    def rank(run: Path) -> tuple[float, float]:
        likeness = difflib.SequenceMatcher(None, path.name, run.name).ratio()
        return likeness if likeness > 0.5 else 0.0, (run / file).stat().st_mtime

    return f"; the nearest run folder is {max(runs, key=rank)}" if runs else ""
