"""`--model-args`: what the text may be, and what it becomes."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt.recipes import quickstart
from rmt.recipes.model_args import format_model_args, parse_model_args


@pytest.mark.parametrize(
    ("text", "keywords"),
    [
        ("", {}),
        (" {} ", {}),
        ("phases=none", {"phases": "none"}),
        ("cpe=false, gate = true,lce=True,head_norm=null", dict(cpe=False, gate=True, lce=True, head_norm=None)),
        ("decomposed=[true,true,true,false]", {"decomposed": [True, True, True, False]}),
        ("decay_ranges=[[2,6],(2, 8.5)],patch_size=4", {"decay_ranges": [[2, 6], [2, 8.5]], "patch_size": 4}),
        ("layer_scales=[None,null,1e-6,-.5]", {"layer_scales": [None, None, 1e-6, -0.5]}),
        ("act_layer=relu6,names=[a, b.c]", {"act_layer": "relu6", "names": ["a", "b.c"]}),
        ("a=\"x,y\",b='p=q'", {"a": "x,y", "b": "p=q"}),
        ('{"decay": "paper", "decomposed": [true, false], "cfg": {"a": [1]}}', None),
    ],
)
def test_text_to_keywords(text, keywords):
    assert parse_model_args(text) == (json.loads(text) if keywords is None else keywords)


NAMES = st.from_regex(r"x_[a-z0-9_]{0,9}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, VALUES))
def test_what_is_written_is_read_again(keywords):
    assert parse_model_args(format_model_args(keywords)) == keywords


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("phases", "has 'phases' where key=value is expected"),
        ("phases=", "has 'phases=' where"),
        ("phases=none,", "has '' where"),
        ("[1,2]", "has '[1,2]' where"),
        ("a b=1", "has 'a b=1' where"),
        ("cpe=true,cpe=false", "sets cpe twice"),
        ('{"cpe": true, "cpe": false}', "sets cpe twice"),
        ("decomposed=[true,true", "sets decomposed to '[true,true'"),
        ("a=1 2", "sets a to '1 2'"),
        ("a=1e999", "sets a to '1e999'"),
        ("a=__import__('os').getcwd()", "sets a to"),
        ("a=" + "[" * 100_000, "sets a to"),
        ("drop_path_rate=0.1", "cannot set drop_path_rate: use --drop-path"),
        ("num_classes=3", "cannot set num_classes"),
        ("checkpoint_path=/etc/passwd", "cannot set checkpoint_path: use --weights"),
    ],
)
def test_what_is_neither_is_one_line_of_the_recipe(text, problem):
    (line,) = replace(quickstart(), model_args=text).problems()
    assert line.startswith(f"--model-args {problem}") and "\n" not in line
