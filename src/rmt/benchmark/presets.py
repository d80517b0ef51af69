"""The measurements behind the tables of docs/speed.md, by name: `rmt bench --preset NAME`."""

import argparse
from collections.abc import Sequence
from typing import Any

from rmt.benchmark.cases import Options
from rmt.benchmark.published import PUBLISHED
from rmt.errors import RMTError

_SWIN = "swin_tiny_patch4_window7_224"
_OURS = ("rmt_tiny", "rmt_small", "rmt_base", "rmt_large")
_DEPLOYED = ("eager/plain", "eager", "deploy")
_BF16: dict[str, Any] = dict(dtypes=("float32", "bfloat16"), modes=_DEPLOYED, threads=1, memory=False)
_GPU: dict[str, Any] = dict(device="cuda", rounds=5, seconds=0.1, batches=(64,))

PRESETS: dict[str, Options] = {
    "cpu-224": Options(modes=(*_DEPLOYED, "deploy+compile")),
    "cpu-latency": Options(models=("rmt_tiny",), batches=(1,), modes=(*_DEPLOYED, "deploy+compile"), rounds=15),
    "cpu-large": Options(
        models=("rmt_small",), batches=(1,), modes=("eager/plain", "deploy"), image_sizes=("224", "1792"), rounds=3
    ),
    "cpu-train": Options(modes=("eager/plain", "eager"), steps=("train",), rounds=4),
    "cpu-pixels": Options(
        models=("rmt_small",),
        batches=(1,),
        modes=("deploy",),
        image_sizes=("224", "448", "896", "1344", "1792", "2688"),
        tolerances=(0.0, 1e-5, 1e-3, 1e-2),
        rounds=2,
        memory=False,
    ),
    "cpu-peers": Options(
        models=(
            *("rmt_tiny", "rmt_small", "rmt_base", _SWIN, "convnext_tiny", "caformer_s18", "convformer_s36"),
            *("davit_small", "mambaout_small"),
        ),
        modes=("eager", "deploy"),
        rounds=5,
        memory=False,
    ),
    "cpu-bfloat16": Options(**_BF16, rounds=9),
    "cpu-bfloat16-latency": Options(**_BF16, models=("rmt_tiny",), batches=(1,), rounds=15),
    "cpu-bfloat16-train": Options(
        batches=(4,),
        dtypes=("float32", "autocast"),
        modes=("eager/plain", "eager"),
        steps=("train",),
        rounds=5,
        threads=1,
    ),
    "gpu-forward": Options(
        **_GPU,
        models=(
            *(*_OURS, _SWIN, "convnext_tiny", "caformer_s18", "caformer_s36", "convformer_s36", "mambaout_small"),
            "maxvit_tiny_tf_224",
        ),
        dtypes=("bfloat16",),
        modes=("eager/plain", "eager", "eager+graph/plain", "deploy+graph"),
        memory=False,
    ),
    "gpu-train": Options(
        **_GPU,
        dtypes=("autocast",),
        steps=("train",),
        modes=("eager/plain", "eager", "eager+graph/plain", "eager+graph"),
    ),
    "gpu-train-others": Options(
        **_GPU,
        models=("rmt_tiny", "rmt_base"),  # all graphs of a run are in memory: rmt_large needs a run of its own
        dtypes=("autocast",),
        steps=("train",),
        modes=("eager+graph/plain", "eager+graph"),
        memory=False,
    ),
    "gpu-large": Options(
        **_GPU | dict(batches=(2,)),
        models=_OURS,
        image_sizes=("800x1333",),
        dtypes=("bfloat16",),
        modes=("eager/plain", "deploy+graph"),
    ),
    "gpu-compiled": Options(
        **_GPU,
        models=("rmt_small",),
        dtypes=("bfloat16",),
        modes=("deploy+graph", "deploy+compile+graph", "compile+graph/plain"),
        memory=False,
    ),
    "gpu-forward-128": Options(
        **_GPU | dict(batches=(128,)),
        models=_OURS,
        dtypes=("bfloat16",),
        modes=("eager+graph/plain", "deploy+graph"),
        memory=False,
    ),
    "table11": Options(
        models=tuple(PUBLISHED),
        image_sizes=("published",),
        modes=("eager", "deploy"),
        steps=("forward", "train"),
        rounds=5,
        reference=_SWIN,
    ),
}


def default_options(words: Sequence[str]) -> Options:
    """The defaults of the options of a command line: those of the preset that its words name, if they name one.

    Raises RMTError for an unknown name.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?")  # without a name: the parser of the command says so
    name = parser.parse_known_args(words)[0].preset
    if not name:
        return Options()
    if name not in PRESETS:
        raise RMTError(f"--preset {name}: there is none of this name; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
