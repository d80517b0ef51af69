"""`rmt COMMAND …`: run a command, and turn errors into one line and an exit code.

Exit codes: 0 success, 1 failure (one line on stderr), 2 wrong option (message of the parser), 130 or 143 stopped by
Ctrl-C or SIGTERM. RMT_TRACEBACK=1 shows the traceback of an error.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from rmt._version import __version__
from rmt.atomic import disk_error
from rmt.errors import RMTError
from rmt.extras import missing_extra
from rmt.plain_output import allow_any_encoding
from rmt.terminal import complain

COMMANDS = (
    "train",
    "evaluate",
    "predict",
    "embed",
    "serve",
    "explain",
    "demo",
    "export",
    "info",
    "convert",
    "check",
    "recipes",
    "token-labels",
    "shard",
    "bench",
)
FILE_COMMANDS = ("evaluate", "predict", "explain")  # whose options depend on the task of the file


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    allow_any_encoding()
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt as stop:
        complain(f"rmt: {stop}" if str(stop) else "rmt: stopped")
        return 128 + getattr(stop, "signal_number", 2)
    except BrokenPipeError:  # the reader of the output has exited, as in `rmt recipes | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit
        return 1
    except Exception as error:
        if os.environ.get("RMT_TRACEBACK"):
            raise
        complain(f"rmt: {_one_line(error)}")
        return 1


def _dispatch(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"rmt {__version__}")
        return 0
    if args[:1] == ["train"]:  # its options depend on the recipe
        return importlib.import_module("rmt.commands.train").main(args[1:])
    import tyro

    runs = {name: importlib.import_module(f"rmt.commands.{name.replace('-', '_')}").run for name in COMMANDS}
    if args[:1] and args[0] in runs and {"-h", "--help"} & set(args):
        from rmt.commands.task_help import help_for_file, unwrap_arguments

        unwrap_arguments(runs[args[0]])
        if args[0] in FILE_COMMANDS:
            runs[args[0]] = help_for_file(runs[args[0]], args[1:])
    if args[:1] == ["bench"]:
        runs["bench"] = importlib.import_module("rmt.commands.bench").for_words(args)
    purpose = f"RMT {__version__}: train, evaluate and use Retentive Networks for vision."
    description = f"{purpose}\n\nFirst steps: rmt train quickstart; with data of your own: rmt check FOLDER"
    code = tyro.extras.subcommand_cli_from_dict(
        runs, prog="rmt", description=description, args=args or ["--help"], config=(tyro.conf.OmitArgPrefixes,)
    )
    return int(code or 0)


def _one_line(error: Exception) -> str:
    if isinstance(error, RMTError):
        text = str(error)
    elif isinstance(error, ModuleNotFoundError) and (remedy := missing_extra("this command", error)):
        text = str(remedy)
    elif isinstance(error, FileNotFoundError) and error.filename is None and not _has_current_folder():
        text = "the current folder no longer exists: change to another"
    elif isinstance(error, RuntimeError) and "home directory" in str(error):  # of Path.expanduser
        text = f"a path begins with ~, and there is no such user: {error}"
    elif isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        text = f"{where}{error.strerror or error}"
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error or type(error).__name__})"
    elif (reason := disk_error(error)) is not None:
        text = f"{reason} ({type(error).__name__}: {error})"
    else:
        text = f"{type(error).__name__}: {error} (probably a bug in rmt; set RMT_TRACEBACK=1 for the traceback)"
    return " ".join(text.split())


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
