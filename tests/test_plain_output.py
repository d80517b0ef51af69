"""Terminals of other encodings than UTF-8 get every command's output, in the characters that they have."""

import io
import os
import subprocess
import sys

import pytest

from rmt.plain_output import allow_any_encoding


def written(text: str, encoding: str) -> str:
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding=encoding)
    allow_any_encoding(stream)
    stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "cp437"])
def test_what_an_encoding_has_stays_and_the_rest_is_replaced(encoding):
    for character in "é×²…γ→漢\ud800":
        try:
            expected = character.encode(encoding).decode(encoding)
        except UnicodeEncodeError:
            plain = {"é": "e", "×": "x", "²": "2", "…": "...", "γ": "gamma", "→": "->"}
            expected = plain.get(character, "?")
        assert written(f"a{character}b", encoding) == f"a{expected}b"


def test_streams_that_cannot_be_changed_are_left():
    allow_any_encoding(None, io.StringIO())
    ignoring = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="ignore")
    allow_any_encoding(ignoring)
    assert ignoring.errors == "ignore"


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=pytest.mark.slow)])
def test_commands_answer(encoding):
    code = (
        "import sys; from rmt.commands.cli import main\n"
        "for args in (['recipes'], ['recipes', 'imagenet-tiny'], ['info', 'no such network']): main(args)\n"
        "sys.exit(main(['info', 'rmt_pico']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    output = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == 0 and "bug in rmt" not in output and "Traceback" not in output
    assert "decay gamma" in output and "1,254,392" in output
