"""`rmt recipes`: the named recipes, what they cost and what they reach."""

import inspect

from rmt.recipes import RECIPES


def run() -> None:
    """List the recipes of `rmt train`."""
    for name, make in RECIPES.items():
        print(name)
        for line in (inspect.getdoc(make) or "").splitlines():
            print(f"    {line}" if line else "")
        print()
