import contextlib
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import finished_run, photos, tiny_recipe

import rmt
from rmt.commands import cli
from rmt.inference import predictor_class
from rmt.recipes import RECIPES
from rmt.tasks import task_named


def run(capsys, *args):
    """(exit code, stdout, stderr) of a command line."""
    try:
        code = cli.main([str(arg) for arg in args])
    except SystemExit as end:  # the parser's own
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_and_recipes_answer_without_torch():
    code = (
        "import sys; from rmt.commands import cli\n"
        "for words in sys.argv[1:]:\n"
        "    try: cli.main(words.split())\n"
        "    except SystemExit: pass\n"
        "    assert not {'torch', 'timm', 'lightning', 'numpy'} & set(sys.modules), words\n"
    )
    commands = ["--help", "recipes", "--version", "train --help", "train quickstart --help"]
    subprocess.run([sys.executable, "-c", code, *commands], check=True, capture_output=True)


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"rmt {rmt.__version__}\n", "")


def test_help_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert all(command in out for command in cli.COMMANDS)


def test_recipes_are_listed_in_a_line_each(capsys):
    code, out, _ = run(capsys, "recipes")
    assert code == 0
    lines = out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    finetune = next(line for line in lines if line.startswith("finetune "))
    assert finetune.endswith("from weights or from scratch.")  # the sentence's second line is there


def test_a_recipe_is_described(capsys):
    code, out, _ = run(capsys, "recipes", "finetune")
    assert code == 0
    assert "Command: rmt train finetune FOLDER" in out and "Cost:" in out


def test_values_that_cannot_be_are_refused_at_once_with_the_remedy():
    code = (
        "import sys; from rmt.commands import cli; code = cli.main(sys.argv[1:])\n"
        "sys.exit('torch in the way' if 'torch' in sys.modules else code)"
    )
    words = ["train", "finetune-segment", "--data", "x", "--iterations", "60"]
    words += ["--validate-every", "500", "--dice-weight", "-1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert "--validate-every 500 does not divide --iterations 60: take 60" in done.stderr
    assert "--dice-weight must not be negative" in done.stderr


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["train", "quickstart", "--epoch", "3"], "--epochs"),
        (["train", "quickstart", "--epochs", "many"], "epochs"),
        (["train", "quickstart", "--device", "toaster"], "device"),
        (["train", "--epochs", "3"], "recipe comes first"),
        (["train", "--resume"], "--resume needs"),
        (["predict", "x", "y", "--topk", "3"], "--top-k"),
        (["trian"], "train"),
    ],
)
def test_a_mistyped_option_is_the_parser_s_own_message_and_exit_code_2(capsys, args, part):
    code, _, err = run(capsys, *args)
    assert code == 2
    assert part in err


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["train", "quikstart"], "did you mean quickstart?"),
        (["train", "xyz"], "there are quickstart, finetune"),
        (["train", "nowhere.py:mine"], "no recipe file nowhere.py"),
        (["train", "finetune"], "--data is missing"),
        (["train", "finetune", "--data", "nowhere"], "nowhere"),
        (["train", "finetune-segment", "nowhere", "--minutes", "3"], "nowhere"),  # --data may be left out
        (["train", "finetune", "here", "--data=there"], "'here' after the recipe is the data already"),
        (["train", "."], "it is a folder; name a recipe before it, e.g. finetune ."),
        (["train", "quickstart", "--epochs", "-1"], "--epochs must not be negative"),
        (["train", "--resume", "nowhere"], "no run of `rmt train`"),
        (["evaluate", "nowhere.safetensors", "--data", "sample"], "nowhere.safetensors"),
        (["evaluate", "rmt_micro", "here", "--data", "there"], "'here' after the checkpoint is the data already"),
        (["evaluate", "rmt_micro"], "give the data after the checkpoint"),
        (["predict", "nowhere.safetensors", "a.jpg"], "nowhere.safetensors"),
        (["info", "nowhere"], "nowhere"),
    ],
)
def test_everything_after_parsing_is_one_line_and_exit_code_1(capsys, args, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rmt.commands.train.announce_slow_import", contextlib.nullcontext)  # on a slow machine a line
    code, out, err = run(capsys, *args)
    assert code == 1
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("rmt: ")
    assert part in err
    assert not list(tmp_path.iterdir())


def test_a_bug_is_one_line_too(capsys, monkeypatch):
    def broken(args):
        raise TypeError("unsupported\noperand")

    monkeypatch.setattr(cli, "_dispatch", broken)
    code, _, err = run(capsys, "recipes")
    assert code == 1
    assert err == "rmt: TypeError: unsupported operand (probably a bug in rmt; set RMT_TRACEBACK=1 for the traceback)\n"
    monkeypatch.setenv("RMT_TRACEBACK", "1")
    with pytest.raises(TypeError):
        cli.main(["recipes"])


def test_closed_streams_and_folders_that_are_gone(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # as `2>&-` leaves it
    code, out, _ = run(capsys, "recipes", "nothing")
    assert (code, out) == (1, "")
    monkeypatch.undo()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli, "_dispatch", lambda args: os.getcwd())
    code, _, err = run(capsys, "recipes")
    monkeypatch.undo()
    assert (code, err) == (1, "rmt: the current folder no longer exists: change to another\n")


def test_a_home_that_is_unknown(capsys):
    code, _, err = run(capsys, "check", "~no-such-user/photos")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("rmt: a path begins with ~, and there is no such user: ")


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_help_names_the_tasks_that_take_an_option(command):
    """An option's help names the kinds of models whose functions have a keyword of its name, and no other kind."""
    doc = inspect.getdoc(importlib.import_module(f"rmt.commands.{command}").run)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", doc.partition("Args:\n")[2], re.MULTILINE | re.DOTALL)
    kinds = {"classify": "classifier", "detect": "detector", "segment": "segmenter"}
    for option, text in entries:
        named = {task for task, kind in kinds.items() if kind in text.lower()}
        if named and option not in ("checkpoint", "data", "output"):
            assert named == {task for task in kinds if option in taken(command, task)}, option


def taken(command, task):
    """The keywords of the functions that a command calls."""
    predictor = predictor_class(task)
    functions = [predictor.load, predictor.run, predictor.show]
    if command == "evaluate":
        functions = [task_named(task).evaluate, task_named(task).describe]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    if command == "predict" and predictor.batch_size > 1:
        names |= {"batch_size"}
    return names | ({"pictures", "masks"} if predictor.has_pictures else set())


@pytest.mark.parametrize(
    ("given", "masks"),
    [
        ([], "auto"),
        (["--masks"], True),
        (["--no-masks"], False),
        (["--masks", "False"], False),
        (["--masks=auto"], "auto"),
    ],
)
def test_masks_are_a_flag_and_may_be_left_to_the_data(given, masks, monkeypatch):
    seen = []
    monkeypatch.setattr("rmt.tasks.train", lambda recipe, started: seen.append(recipe))
    assert cli.main(["train", "finetune-detect", "--data", "x", *given, "--flip", "0"]) == 0
    assert seen[0].masks == masks and type(seen[0].masks) is type(masks) and seen[0].flip == 0


def test_a_missing_extra_says_which(capsys, monkeypatch):
    def bare(args):
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setattr(cli, "_dispatch", bare)
    code, _, err = run(capsys, "train")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("rmt: this command needs the package lightning: pip install '.[train]' in a checkout")


def test_ctrl_c_outside_training_is_one_line_and_130(capsys, monkeypatch):
    def stopped(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", stopped)
    assert run(capsys, "recipes") == (130, "", "rmt: stopped\n")


def write_recipe_file(folder: Path) -> Path:
    values = {k: v for k, v in tiny_recipe().as_dict().items() if k != "task"}
    file = folder / "mine.py"
    file.write_text(
        "from rmt.recipes import ClassifyRecipe\n"
        f"ready = ClassifyRecipe(**{values!r})\n"
        "def made():\n    'My own recipe.'\n    return ready\n"
        "number = 3\n"
    )
    return file


def test_training_by_a_recipe_of_one_s_own(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    file = write_recipe_file(tmp_path)
    output = tmp_path / "run"
    args = (
        "--output",
        output,
        "--epochs",
        "1",
        "--warmup-epochs",
        "0",
        "--class-weights",
        "--no-repeated-augmentation",
    )
    code, out, _ = run(capsys, "train", f"{file}:made", *args)
    assert code == 0
    assert "val top-1" in out and "test" not in out.partition("val top-1")[2].partition("best was")[0]
    recipe = json.loads((output / "recipe.json").read_text())
    assert (recipe["epochs"], recipe["class_weights"], recipe["batch_size"]) == (1, True, 4)

    code, _, err = run(capsys, "train", f"{file}:ready", "--output", output)
    assert (code, err.count("\n")) == (1, 1)
    assert "not empty" in err

    code, out, _ = run(capsys, "train", "--resume", output)
    assert code == 0
    assert "complete" in out
    code, _, err = run(capsys, "train", "--resume", output, "--lr", "1")
    assert code == 1
    assert "lr 0.002 -> 1.0; pass --accept-changes" in err


def test_a_recipe_without_a_docstring_is_named(capsys, tmp_path):
    file = tmp_path / "own.py"
    file.write_text("from rmt.recipes import RECIPES\nmine = RECIPES['finetune']()\n")
    code, out, _ = run(capsys, "recipes", f"{file}:mine")
    assert code == 0 and f"{file}:mine: a classify recipe without a docstring" in out


@pytest.mark.parametrize(
    ("name", "part"), [("number", "a int, not a recipe"), ("missing", "defines no 'missing'; it has ready")]
)
def test_what_is_no_recipe_in_a_file(capsys, tmp_path, name, part):
    code, _, err = run(capsys, "train", f"{write_recipe_file(tmp_path)}:{name}")
    assert code == 1
    assert part in err


def test_a_broken_recipe_file_names_its_line(capsys, tmp_path):
    (tmp_path / "broken.py").write_text("x = 1\ny = x / 0\n")
    code, _, err = run(capsys, "train", f"{tmp_path / 'broken.py'}:x")
    assert code == 1
    assert "broken.py:2: ZeroDivisionError" in err
    (tmp_path / "worse.py").write_text("x = = 1\n")
    code, _, err = run(capsys, "train", f"{tmp_path / 'worse.py'}:x")
    assert (code, err.count("\n")) == (1, 1)


def test_evaluate(capsys, tmp_path):
    finished_run()
    capsys.readouterr()
    args = ("evaluate", finished_run(), photos(), "--device", "cpu", "--workers", "0")  # --data may be left out
    code, out, _ = run(capsys, *args, "--output", tmp_path / "result.json")
    assert code == 0
    assert out.startswith("top-1 ")
    assert "(12 images)" in out
    code, printed, _ = run(capsys, *args[:2], "--data", *args[2:], "--json")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert json.loads(printed) == {key: value for key, value in saved.items() if key != "confusion"}
    best = json.loads((finished_run() / "metrics.json").read_text())["best"]["val"]
    assert saved["top1"] == best["top1"]


def test_predict(capsys, tmp_path):
    finished_run()
    capsys.readouterr()
    image = next(Path(photos()).glob("val/red/*.png"))
    code, out, err = run(capsys, "predict", finished_run(), image, "--top-k", "2", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.startswith(f"{image}: ")
    assert out.count("%") == 2
    (tmp_path / "bad.png").write_text("x")
    code, out, err = run(capsys, "predict", finished_run(), tmp_path / "bad.png", image, "--json", "--device", "cpu")
    assert code == 1
    assert "bad.png" in err
    (line,) = out.splitlines()
    answer = json.loads(line)
    assert answer["image"] == str(image)
    assert sum(p["probability"] for p in answer["predictions"]) == pytest.approx(1, abs=1e-5)


def test_a_checkpoint_that_would_run_code_is_refused(capsys, tmp_path):
    import pickle

    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.mkdir, (marker,)

    for name in ("evil.safetensors", "evil.pth"):
        (tmp_path / name).write_bytes(pickle.dumps({"model": Evil()}))
        code, _, err = run(capsys, "predict", tmp_path / name, "a.png")
        assert (code, err.count("\n")) == (1, 1)
    assert not marker.exists()
