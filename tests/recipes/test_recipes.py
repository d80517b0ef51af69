import subprocess
import sys
from dataclasses import fields, replace

import pytest

from rmt.recipes import RECIPES, ClassifyRecipe, changes, from_dict, quickstart


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_can_run_and_says_what_it_costs(name):
    recipe = RECIPES[name]()
    assert recipe.problems() == []
    assert recipe.name == name
    text = RECIPES[name].__doc__
    for word in ("Cost:", "Accuracy:", f"Command: rmt train {name}"):
        assert word in text
    assert "TODO" not in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name):
    recipe = RECIPES[name]()
    assert from_dict(recipe.as_dict()) == recipe


def test_what_cannot_be_read_back_is_named():
    with pytest.raises(ValueError, match="task 'sing'"):
        from_dict({"task": "sing"})
    with pytest.raises(ValueError, match="leraning_rate"):
        from_dict(quickstart().as_dict() | {"leraning_rate": 1})
    with pytest.raises(TypeError, match="name"):
        from_dict({"task": "classify"})


def test_changes_lists_old_and_new():
    assert changes(quickstart(), replace(quickstart(), epochs=3, lr=1.0)) == {
        "epochs": (quickstart().epochs, 3),
        "lr": (quickstart().lr, 1.0),
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 0),
        ("accumulate", 0),
        ("epochs", -1),
        ("lr", -1.0),
        ("min_lr", 1.0),
        ("warmup_epochs", -1.0),
        ("image_size", 16),
        ("ema_decay", 1.0),
        ("layer_decay", 1.5),
        ("drop_path", 1.0),
        ("flip", 1.5),
        ("min_crop", 0.0),
        ("crop_pct", 1.5),
        ("workers", -1),
        ("seed", -1),
        ("label_smoothing", -0.1),
    ],
)
def test_impossible_values_are_named_with_their_option(field, value):
    (problem,) = replace(quickstart(), **{"lr": 3e-3, field: value}).problems()
    assert f"--{field.replace('_', '-')}" in problem


@pytest.mark.parametrize("option", ["pad_to", "crop_padding"])
def test_the_tensor_loader_is_refused_where_pillow_is_needed(option):
    fast = replace(quickstart(), loader="tensor", pad_to=0, crop_padding=0)
    assert fast.problems() == []
    assert replace(fast, loader="auto", **{option: 4}).problems() == []
    (problem,) = replace(fast, **{option: 4}).problems()
    assert problem == f"--loader tensor is not for --{option.replace('_', '-')}: take --loader pillow"


@pytest.mark.parametrize(
    ("name", "changes", "option"),
    [
        ("quickstart", {"token_loss": 0.1}, "--token-loss"),
        ("quickstart", {"mix_token": 0.0}, "--mix-token"),
        ("quickstart", {"ground_truth": 0.5}, "--ground-truth"),
        ("finetune-segment", {"aux_weight": 0.1}, "--aux-weight"),
    ],
)
def test_a_field_without_effect_is_refused(name, changes, option):
    (problem,) = replace(RECIPES[name](), **changes).problems()
    assert problem.startswith(f"{option} has no effect with")


def test_a_value_that_is_no_number_is_refused():
    for name, make in RECIPES.items():
        for field in fields(make()):
            if isinstance(getattr(make(), field.name), float):
                for value in (float("nan"), float("inf"), float("-inf")):
                    problems = replace(make(), **{field.name: value}).problems()
                    assert f"--{field.name.replace('_', '-')} must be a number, not {value}" in problems, name


def test_mixing_needs_pairs():
    assert replace(quickstart(), batch_size=63, mixup=0.5).problems()
    assert not replace(quickstart(), batch_size=63).problems()


def test_every_field_explains_itself_on_the_command_line():
    import inspect

    from rmt.recipes import classify, recipe

    source = inspect.getsource(recipe) + inspect.getsource(classify)
    for field in fields(ClassifyRecipe):
        after = source.split(f"    {field.name}: ")[-1].splitlines()[1]
        assert after.strip().startswith('"""'), f"{field.name} has no help text"


def test_recipes_need_only_the_standard_library():
    code = "import sys, rmt.recipes; print([m for m in ('torch', 'timm', 'numpy', 'tyro') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
