"""Runs that end in the middle, as a kill would end them."""

import pytest

import rmt
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.module import ClassifyModule

EACH_UPDATE = 1e-9  # checkpoint_minutes: save after every update


class Killed(BaseException):
    """What stands for a kill inside this process."""


def killed_at(monkeypatch, method: str, call: int, owner: type = ClassifyModule, after: bool = False) -> None:
    """Lets the n-th call of a method be the process's last."""
    calls, original = [], getattr(owner, method)

    def fatal(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == call and not after:
            raise Killed
        result = original(self, *args, **kwargs)
        if len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(owner, method, fatal)


def run_until_killed(recipe: ClassifyRecipe) -> None:
    with pytest.raises(Killed):
        rmt.train(recipe)
