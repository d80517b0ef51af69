"""Scripts that start a training while they are imported, where processes are started by spawn or forkserver.

Such a process imports the script again, and would start the training again.
"""

import ast
import multiprocessing
import sys
from pathlib import Path
from types import FrameType

from rmt.errors import RMTError


def require_main_guard(workers: int) -> None:
    """Raises RMTError when data workers would start the training of the running script again.

    In such a worker it ends the process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # importing the script, before its own work
        raise SystemExit(f"rmt: {_advice('the script')}")
    if not workers or multiprocessing.get_start_method() == "fork":
        return
    main = sys.modules.get("__main__")
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals is vars(main)):
        frame = frame.f_back
    file = getattr(main, "__file__", None)
    if frame is not None and file and not _is_guarded(Path(file), frame.f_lineno):
        raise RMTError(_advice(str(file)))


def _is_guarded(file: Path, line: int) -> bool:
    """Whether the line is inside an `if` on `__name__`; also where the file cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(
        isinstance(node, ast.If)
        and node.lineno <= line <= (node.end_lineno or line)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        for node in ast.walk(tree)
    )


def _advice(script: str) -> str:
    return (
        f"{script} starts the training while it is imported, as its data workers do, too: put the call under "
        '`if __name__ == "__main__":`, or take workers=0'
    )
