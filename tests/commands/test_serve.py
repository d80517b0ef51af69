"""`rmt serve` and `rmt demo`: their options, and mistakes in one line."""

import pytest
from helpers.served import classifier

pytest.importorskip("fastapi")

from rmt.commands.cli import main
from rmt.serve import server
from rmt.serve.limits import Limits


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What the server would be started with."""
    calls = []

    def note(app, listener, limits, on_start):
        calls.append((app, listener, limits))
        on_start()
        listener.close()

    monkeypatch.setattr(server, "serve", note)
    return calls


def test_options_reach_the_server(started, tmp_path, capsys):
    file, token = classifier(tmp_path / "a.safetensors"), tmp_path / "token"
    token.write_text("long enough\n")
    options = ["--port", "0", "--max-body", "2", "--max-pixels", "3", "--max-wait", "5", "--token-file", str(token)]
    options += ["--max-batch", "4"]  # none is measured, which takes a second and prints a line
    assert main(["serve", str(file), *options, "--device", "cpu", "--host", "0.0.0.0"]) == 0
    ((app, _, limits),) = started
    assert (limits.max_body, limits.max_pixels, limits.max_wait) == (2**21, 3_000_000, 0.005)
    assert limits.max_batch == 4
    guard = app.user_middleware[0].kwargs
    assert guard["token"] == "long enough" and guard["hosts"] == ()
    shown = capsys.readouterr()
    assert f"{file} is served at http://127.0.0.1:" in shown.out and shown.err == ""
    assert limits.max_images == Limits.max_images
    words = ["--allowed-hosts", "photos.example", "--max-queue", "8"]
    assert main(["serve", str(file), "--port", "0", "--device", "cpu", *words]) == 0
    assert started[1][2].max_images == 8
    assert "photos.example" in started[1][0].user_middleware[0].kwargs["hosts"]
    assert main(["serve", str(file), "--port", "0", "--device", "cpu", "--host", "0.0.0.0"]) == 0
    assert "whoever reaches 0.0.0.0 can use this server: see --token-file" in capsys.readouterr().err


def test_a_demo_opens_its_page_for_this_machine_alone(started, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    file = str(classifier(tmp_path / "a.safetensors"))
    assert main(["demo", file, "--device", "cpu"]) == 0
    address = capsys.readouterr().out.split(" answers at ")[1].split()[0]
    assert opened == [address] and address.startswith("http://127.0.0.1:")
    assert started[0][0].user_middleware[0].kwargs["hosts"] == ("localhost", "127.0.0.1", "::1")
    assert main(["demo", file, "--device", "cpu", "--no-browser"]) == 0 and len(opened) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.safetensors"], "no checkpoint at missing.safetensors"),
        (["rmt_small"], "rmt_small is a network without weights in this package"),
        (["--port", "99999"], "--host 127.0.0.1 --port 99999: bind(): port must be 0-65535"),
        (["--max-queue", "0"], "--max-queue must be at least 1, not 0"),
        (["--max-images", "200"], "--max-images 200 is above --max-queue 128"),
        (["--max-pixels", "101"], "--max-pixels must be at most 100 million"),
        (["--timeout", "0"], "--timeout must lie between 0 and 3,600 seconds, not 0"),
        (["--max-wait", "-1"], "--max-wait must lie between 0 and 10,000 milliseconds, not -1"),
        (["--token-file", "missing"], "missing: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line(started, words, message, capsys):
    assert main(["serve", *(["--port", "0"] if "--port" not in words else []), *words]) == 1
    error = capsys.readouterr().err
    assert f"rmt: {message}" in error and not started
    assert error.count("\n") <= 2


def test_a_short_token_is_refused(started, tmp_path, capsys):
    (tmp_path / "token").write_text("short")
    assert main(["serve", "--token-file", str(tmp_path / "token")]) == 1
    assert "a token has at least 8 printable ASCII characters" in capsys.readouterr().err
