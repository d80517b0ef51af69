"""The help of `rmt predict FILE` and `rmt evaluate FILE` shows what the task of the file takes, and nothing else."""

import inspect
import re
from dataclasses import fields

import pytest
from helpers.networks import pico

import rmt
from rmt.commands import evaluate, predict
from rmt.commands.cli import main
from rmt.commands.task_help import KINDS, help_for_task, text_for, unwrap_arguments
from rmt.inference import predictor_class
from rmt.recipes import DetectRecipe
from rmt.tasks import task_named

OWN = {"checkpoint", "folder", "data", "device", "precision", "workers", "output", "json"}


def documented(run, task: str) -> set[str]:
    """The options that the help for a task explains."""
    text = help_for_task(run, task, "m.safetensors").__doc__.partition("Args:")[2]
    return set(re.findall(r"^    (\w+): \S", text, re.MULTILINE))


@pytest.mark.parametrize("task", KINDS)
def test_the_options_are_those_that_the_task_takes(task):
    functions = (task_named(task).evaluate, task_named(task).describe)
    taken = {name for function in functions for name in inspect.signature(function).parameters}
    every = set(inspect.signature(evaluate.run).parameters)
    assert documented(evaluate.run, task) == every & (taken | OWN)
    kind = predictor_class(task)
    taken = {name for function in (kind.load, kind.run, kind.show) for name in inspect.signature(function).parameters}
    taken |= {"pictures", "masks"} if kind.has_pictures else set()
    taken |= {"batch_size"} if kind.batch_size > 1 else set()
    every = set(inspect.signature(predict.run).parameters)
    assert documented(predict.run, task) == every & (taken | OWN | {"images", "engine", "replicas"})


def test_the_lines_of_a_text_are_joined():
    def run(first, second):
        """Does it.

        Args:
            first: One line
                and another.
            second: A
                text.
        """

    unwrap_arguments(run)
    assert run.__doc__ == "Does it.\n\nArgs:\n    first: One line and another.\n    second: A text."
    unwrap_arguments(run)
    assert run.__doc__.endswith("    second: A text.")


def test_the_lines_of_the_text_of_a_field_are_joined(capsys):
    with pytest.raises(SystemExit):
        main(["train", "finetune-detect", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "--minutes" in words and "by the data and the measured speed of this machine. 0: no plan;" in words
    help_of = {field.name: field.metadata["help"] for field in fields(DetectRecipe)}
    assert help_of["minutes"].startswith(
        "Plan the run to take this many minutes in all: what the recipe leaves open is"
    )
    assert help_of["metric"].startswith("Metric that the best weights are selected by") and all(help_of.values())
    assert not any("\n" in text for text in help_of.values())


def test_a_text_is_reduced_to_one_task():
    text = "Side. Classifiers: in pixels. Detectors and segmenters: the short one. Segmenters: or 0."
    assert text_for(text, "classifiers") == "Side. In pixels."
    assert text_for(text, "detectors") == "Side. The short one."
    assert text_for(text, "segmenters") == "Side. The short one. Or 0."
    assert text_for("Detectors: boxes.", "classifiers") == ""


def test_the_help_of_a_file(tmp_path, capsys):
    rmt.save_checkpoint(pico(), tmp_path / "m.safetensors")
    shown = {}
    for words in (["predict", str(tmp_path / "m.safetensors")], ["predict", "nothing"], ["predict"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help"])
        assert not stop.value.code
        shown[words[-1]] = capsys.readouterr().out
    of_file, of_nothing, of_command = shown.values()
    assert "--top-k" in of_file and "--threshold" not in of_file and "Detectors" not in of_file
    assert of_nothing.partition("─ options")[2] == of_command.partition("─ options")[2]
    assert "--top-k" in of_command and "--threshold" in of_command
