"""The figures in docs/speed.md and the README are those of the committed results."""

import json
import re

import pytest
from helpers.documentation import page
from helpers.scripts_under_test import script

from rmt.benchmark.published import PUBLISHED

PAGE, README = page("docs/speed.md"), page("README.md")
SWIN = "swin_tiny_patch4_window7_224"


def results(name: str, **which) -> list[dict]:
    """The entries of a committed run that have all these values."""
    content = json.loads(page(f"benchmarks/{name}.json"))
    return [entry for entry in content["results"] if all(entry[key] == value for key, value in which.items())]


def milliseconds(name: str, **which) -> float:
    (entry,) = results(name, **which)
    return entry["seconds"]["median"] * 1e3


def row(start: str) -> list[str]:
    """The cells after the first of the table row that starts so."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("name", script("speed_tables", "benchmarks").PAGES)
def test_the_tables_are_those_that_the_script_writes(name):
    tables = script("speed_tables", "benchmarks")
    marked = tables.MARKED.findall(page(name))
    assert {table for _, table, _ in marked} <= tables.TABLES.keys() and marked
    emptied = tables.MARKED.sub(r"\1\3", page(name))
    assert emptied != page(name) == tables.filled(emptied), "run python benchmarks/speed_tables.py"


def test_one_kernel_in_place_of_two():
    text = " ".join(PAGE.split())
    for part, known in (
        ("GELU", "{} of the time of GELU and convolution in float32 and {} in bfloat16"),
        ("addition", "{} and {} of addition and LayerNorm"),
    ):
        shown = []
        for dtype in ("float32", "bfloat16"):
            found = [e["seconds"] for e in results("cpu-kernels", dtype=dtype) if e["part"].startswith(part)]
            saved = [100 - 100 * seconds["kernels"] / seconds["two"] for seconds in found]
            shown.append(f"{min(saved):.0f} to {max(saved):.0f} %")
        assert known.format(*shown) in text


def test_exported_networks():
    def seconds(model, mode):
        return milliseconds("cpu-runtimes", model=model, mode=mode)

    text = " ".join(PAGE.split())
    assert (
        0.6 < seconds("rmt_tiny", "openvino") / seconds("rmt_tiny", "deploy") < 0.7 and "two thirds of its time" in text
    )
    share = seconds("repvit_m1_1", "openvino") / seconds("rmt_tiny", "openvino")
    assert f"RepViT-M1.1 takes {share:.2f} of RMT-T's time" in text
    assert f"{PUBLISHED['repvit_m1_1'].top1} % on ImageNet with a teacher" in text and PUBLISHED["repvit_m1_1"].teacher
    spreads = [
        (high - low) / 2 / entry["seconds"]["median"]
        for entry in results("cpu-runtimes")
        for low, high in [entry["seconds"]["quartiles"]]
    ]
    assert f"± {100 * min(spreads):.0f} to {100 * max(spreads):.0f} % from the median" in text


def test_cpu_against_swin():
    times = {
        name: milliseconds("cpu-224", **which)
        for name, which in {
            "plain": dict(model="rmt_small", mode="eager", backend="plain"),
            "eager": dict(model="rmt_small", mode="eager", backend="auto"),
            "deployed": dict(model="rmt_small", mode="deploy"),
            "compiled": dict(model="rmt_small", mode="deploy+compile"),
            "swin": dict(model=SWIN, mode="eager"),
        }.items()
    }
    plain, _, measured, _ = row("images/s of RMT-S ÷ swin_tiny eager")
    assert plain == f"{times['swin'] / times['plain']:.2f}"
    for name, words in (("deployed", "deployed"), ("compiled", "compiled too"), ("eager", "eager")):
        assert f"{times['swin'] / times[name]:.2f} {words}" in measured
    best = milliseconds("cpu-224", model=SWIN, mode="compile") / min(times["deployed"], times["compiled"])
    assert row("images/s of RMT-S ÷ swin_tiny, both at their best")[2].startswith(f"{best:.2f}: deployed")
    again = milliseconds("cpu-peers", model=SWIN) / milliseconds("cpu-peers", model="rmt_small", mode="deploy")
    assert f"{again:.2f} deployed in another run" in measured
    (steps,) = [line for line in PAGE.splitlines() if line.startswith(f"| {times['plain']:,.0f} |")]
    assert f"| {times['eager']:,.0f} | {times['deployed']:,.0f} | {times['compiled']:,.0f} |" in steps


def test_cpu_latency_training_and_large_images():
    latency = dict(model="rmt_tiny", backend="auto")
    plain = milliseconds("cpu-latency", backend="plain")
    measured = row("latency of one image, RMT-T ÷ plain")[2]
    assert (
        f"{milliseconds('cpu-latency', mode='deploy+compile', **latency) / plain:.3f} deployed and compiled" in measured
    )
    assert f"{milliseconds('cpu-latency', mode='deploy', **latency) / plain:.2f} deployed" in measured

    ours, swin = results("cpu-train", model="rmt_small", backend="auto"), results("cpu-train", model=SWIN)
    ratios = [ours[0][key] / swin[0][key] for key in ("images_per_second", "peak_memory")]
    assert f"{1 / ratios[0]:.2f} in time, {ratios[1]:.2f} in memory" in row("training step ÷ swin_tiny's")[2]

    per_pixel = {
        size: milliseconds("cpu-large", image_size=size, mode="deploy") * 1e3 / size**2 for size in (224, 1792)
    }
    measured = row("cost per pixel, 1792² ÷ 224², exact, one image")[2]
    assert f"{per_pixel[1792] / per_pixel[224]:.2f} ({per_pixel[224]:.2f}, {per_pixel[1792]:.2f} µs" in measured
    ((memory,),) = [[e["peak_memory"]] for e in results("cpu-large", image_size=1792, mode="deploy")]
    assert f"{memory / 1e9:.2f} GB" in row("peak memory over baseline, 1792²")[2]


def test_the_training_step_on_a_cpu_with_bfloat16():
    def step(model: str, dtype: str, backend: str, key: str = "seconds") -> float:
        (entry,) = results("cpu-bfloat16-train", model=model, dtype=dtype, backend=backend)
        return entry["seconds"]["median"] * 1e3 if key == "seconds" else entry[key]

    dtypes = ("float32", "autocast")
    ours = [f"{step('rmt_small', dtype, backend):,.0f}" for dtype in dtypes for backend in ("plain", "auto")]
    swin = [f"{step(SWIN, dtype, 'auto'):,.0f}" for dtype in dtypes]
    assert row("RMT-S, training step (bfloat16: autocast)") == [*ours[:2], "", *ours[2:], ""]
    assert row("swin_tiny, training step") == [swin[0], "", "", swin[1], "", ""]
    for dtype, start in zip(
        dtypes, ("training step RMT-S ÷ swin_tiny, float32", "training step under autocast"), strict=True
    ):
        for place, backend in ((0, "plain"), (2, "auto")):
            time, memory = (
                step("rmt_small", dtype, backend, key) / step(SWIN, dtype, "auto", key)
                for key in ("seconds", "peak_memory")
            )
            said = row(start)[place]
            assert said.startswith(f"{time:.2f}") and f"memory {memory:.2f}" in said


def test_inference_on_a_cpu_with_bfloat16():
    def time(name: str, model: str, dtype: str, mode: str, backend: str = "auto", key: str = "median") -> float:
        (entry,) = results(name, model=model, dtype=dtype, mode=mode, backend=backend)
        return entry["seconds"][key] * 1e3

    ways = (("eager", "plain"), ("eager", "auto"), ("deploy", "auto"))
    dtypes, name = ("float32", "bfloat16"), "cpu-bfloat16"
    small = {(dtype, *way): time(name, "rmt_small", dtype, *way) for dtype in dtypes for way in ways}
    swin = {dtype: time(name, SWIN, dtype, "eager") for dtype in dtypes}
    assert row("RMT-S, images/s") == [f"{8e3 / milli:.2f}" for milli in small.values()]
    assert row("swin_tiny, images/s") == [
        f"{8e3 / swin['float32']:.2f}",
        "",
        "",
        f"{8e3 / swin['bfloat16']:.2f}",
        "",
        "",
    ]
    tiny = {(dtype, *way): time(f"{name}-latency", "rmt_tiny", dtype, *way) for dtype in dtypes for way in ways}
    assert row("RMT-T, latency of one image") == [f"{milli:.1f}" for milli in tiny.values()]

    plain, eager, deployed = ({dtype: small[dtype, *way] for dtype in dtypes} for way in ways)
    before, target, measured, result = row("RMT-S bf16 ÷ swin_tiny bf16, speed")
    gains = [swin["bfloat16"] / times["bfloat16"] for times in (plain, eager, deployed)]
    assert (before, measured) == (f"{gains[0]:.2f}", f"{gains[2]:.2f} deployed, {gains[1]:.2f} eager")
    assert result.startswith("reached" if max(gains) >= float(target.strip("≥ ")) else "**missed**")
    best = min(eager["float32"], deployed["float32"]) / min(eager["bfloat16"], deployed["bfloat16"])
    own = [times["float32"] / times["bfloat16"] for times in (plain, eager, deployed)]
    assert row("RMT-S bf16 ÷ its own float32, speed")[::2] == [
        f"{own[0]:.2f}", f"{own[1]:.2f} eager, {own[2]:.2f} deployed, {best:.2f} best of each"
    ]  # fmt: skip
    gains = [swin["float32"] / times["float32"] for times in (plain, eager, deployed)]
    assert row("RMT-S float32 ÷ swin_tiny float32, speed")[::2] == [
        f"{gains[0]:.2f}", f"{gains[2]:.2f} deployed, {gains[1]:.2f} eager"
    ]  # fmt: skip
    shares = [tiny[key] / tiny["float32", *ways[0]] for key in tiny]
    assert row("latency RMT-T, float32 ÷ plain")[2] == (
        f"{shares[2]:.2f} deployed, {shares[1]:.2f} eager; bfloat16 deployed {shares[5]:.2f} of float32 plain"
    )


def test_the_start_of_a_command():
    found = json.loads(page("benchmarks/start-time.json"))
    first, predict, imports = found["first_step"], found["predict"], list(found["imports"].values())
    total = sum(times["without"] for times in imports)
    assert row("CPU time of `rmt train quickstart`, to the end of its first step")[1:] == [
        f"{first['seconds']:.1f} s, of which imports take {total:.1f} s; {first['peak_mb']:,} MB", "**missed**"
    ]  # fmt: skip
    assert row("peak memory of `rmt predict` of a small classifier")[1:] == [
        f"{predict['peak_mb']:,} MB; {predict['seconds']:.1f} s of CPU time", "**missed**"
    ]  # fmt: skip
    for name, times in found["imports"].items():
        if name not in ("interpreter", "tyro"):  # one row together
            start = next(line for line in PAGE.splitlines() if line.startswith(f"| {name.partition(' ')[0]}"))
            assert start.endswith(f" | {times['without']:.2f} | {times['with']:.2f} | {times['peak_mb']:,} |")


def spread(name: str, **which) -> str:
    (entry,) = results(name, **which)
    low, high = entry["seconds"]["quartiles"]
    return f"± {(high - low) / 2 / entry['seconds']['median'] * 100:.0f} %"


SIZES = ("tiny", "small", "base", "large")
GRAPHS = (("eager+graph", "plain"), ("deploy+graph", "auto"))
GPU = ("forward", "forward-128", "large", "train", "train-others", "train-large", "compiled")


def rows_of(size: str) -> list[list[str]]:
    """The cells after the first of a network's rows on the GPU: forward, at 800 × 1333, in training."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| RMT-{size[0].upper()} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in lines]


@pytest.mark.parametrize("size", SIZES)
def test_gpu_forward_of_ours(size):
    forward, large, _ = rows_of(size)
    which, expected = dict(model=f"rmt_{size}"), []
    for backend in ("plain", "auto"):
        eager = which | dict(mode="eager", backend=backend)
        expected.append(f"{milliseconds('gpu/forward', **eager):.1f} ({spread('gpu/forward', **eager)})")
    for name in ("gpu/forward", "gpu/forward-128"):
        plain, deployed = (milliseconds(name, **which, mode=mode, backend=backend) for mode, backend in GRAPHS)
        expected += [f"{plain:.1f}", f"{deployed:.1f}", f"{plain / deployed:.1f}"]
    assert forward == [f"{PUBLISHED[which['model']].top1:.1f}", *expected]

    before, after = (results("gpu/large", **which, mode=mode)[0] for mode in ("eager", "deploy+graph"))
    assert large == [
        *(f"{entry['seconds']['median'] * 1e3:.1f}" for entry in (before, after)),
        f"{before['peak_memory'] / 1e6:,.0f} → {after['peak_memory'] / 1e6:,.0f}",
    ]


def test_the_spreads_of_the_gpu():
    widest: dict[bool, float] = {True: 0, False: 0}
    for name in GPU:
        for entry in results(f"gpu/{name}"):
            if "failed" not in entry:
                low, high = entry["seconds"]["quartiles"]
                graph = entry["mode"].endswith("+graph")
                widest[graph] = max(widest[graph], (high - low) / 2 / entry["seconds"]["median"] * 100)
    text = PAGE.replace("\n", " ")
    assert f"by up to ± {widest[False]:.0f} % (the JSON has every round)" in text
    assert f"those of CUDA graphs by at most ± {widest[True]:.0f} %" in text


def test_gpu_peers():
    fastest = {entry["model"]: entry for entry in results("gpu/forward", mode="deploy+graph")}
    better, slower = [], {name: set() for name in fastest}
    for entry in results("gpu/forward", mode="eager+graph", backend="auto"):
        time, name = entry["seconds"]["median"], entry["model"]
        label = name.removesuffix("_patch4_window7_224").removesuffix("_tf_224")
        assert row(label) == [f"{PUBLISHED[name].top1:.1f}", f"{time * 1e3:.1f}"]
        for ours, own in fastest.items():
            if PUBLISHED[name].top1 >= PUBLISHED[ours].top1:
                better.append(time / own["seconds"]["median"])
            if PUBLISHED[name].top1 <= PUBLISHED[ours].top1 and time < own["seconds"]["median"]:
                slower[ours].add(label)
    assert row("time of listed networks of equal or better accuracy ÷ RMT's")[1] == f"{min(better):.1f} and more"
    assert slower["rmt_tiny"] == set() and slower["rmt_small"] == {"convnext_tiny"}
    assert all(not name.endswith(("_s36", "mambaout_small")) for name in slower["rmt_base"])


@pytest.mark.parametrize("size", SIZES)
def test_gpu_training(size):
    which = dict(model=f"rmt_{size}", mode="eager+graph")
    plain, kernels = (
        results(f"gpu/{name}", **which, backend=backend)[0]
        for name, backend in (
            ("train" if size == "small" else "train-others", "plain"),
            ({"small": "train", "large": "train-large"}.get(size, "train-others"), "auto"),
        )
    )
    times = [entry["seconds"]["median"] * 1e3 for entry in (plain, kernels)]
    memory = [entry["peak_memory"] and f"{entry['peak_memory'] / 1e9:.2f}" for entry in (plain, kernels)]
    words = {"small": f"{memory[0]} → {memory[1]}", "large": f"kernels: {memory[1]}"}.get(size, "–")
    assert rows_of(size)[2] == [*(f"{time:.1f}" for time in times), f"{times[0] / times[1]:.2f}", words]


def test_gpu_training_of_swin_and_in_eager_mode():
    (swin,) = results("gpu/train", model=SWIN, mode="eager+graph")
    assert row("swin_tiny's") == [
        *(f"{swin['seconds']['median'] * 1e3:.1f}", "–", "–", f"{swin['peak_memory'] / 1e9:.2f}")
    ]
    plain, ours = (dict(model="rmt_small", mode="eager", backend=backend) for backend in ("plain", "auto"))
    text = PAGE.replace("\n", " ")
    assert f"takes {milliseconds('gpu/train', **plain):.0f} ms plain ({spread('gpu/train', **plain)})" in text
    assert f"{milliseconds('gpu/train', **ours):.0f} ms with kernels ({spread('gpu/train', **ours)})" in text


def test_gpu_targets():
    """The rows that are computed from several results, and the README's sentence."""

    def ratio(name: str, model: str, *modes: tuple[str, str]) -> float:
        slow, fast = (milliseconds(f"gpu/{name}", model=model, mode=mode, backend=backend) for mode, backend in modes)
        return slow / fast

    eager, graphs = (("eager", "plain"), ("eager", "auto")), (("eager+graph", "plain"), ("eager+graph", "auto"))
    forward, both = ratio("forward", "rmt_small", eager[0], GRAPHS[1]), ratio("forward", "rmt_small", *GRAPHS)
    assert row("forward of RMT-S, batch 64, plain eager ÷ deployed graph")[1] == (
        f"{forward:.1f}; both as graphs {both:.1f}"
    )
    step = ratio("train", "rmt_small", *graphs)
    measured = row("training step of RMT-S, plain ÷ kernels")[1]
    assert measured.startswith(f"{step:.2f} as graphs; {ratio('train', 'rmt_small', *eager):.2f} in eager mode")
    memory = [results("gpu/train", mode="eager", model="rmt_small", backend=b)[0]["peak_memory"] for _, b in eager]
    assert row("memory of this step, kernels ÷ plain")[1] == f"{memory[1] / memory[0]:.2f}"
    of_all = [ratio("forward", f"rmt_{size}", *eager) for size in SIZES]
    assert min(of_all) >= 1
    assert row("forward, eager, batch 64, plain ÷ kernels")[1].startswith(", ".join(f"{gain:.2f}" for gain in of_all))

    claim = f"{round(64e3 / milliseconds('gpu/forward', model='rmt_small', mode='deploy+graph'), -2):,.0f} images/s"
    assert f"{claim} deployed, {both:.1f} × plain PyTorch" in README.replace("\n", " ")
    assert f"a training step {step:.1f} × as fast, in half of the memory" in README.replace("\n", " ")


def test_gpu_compiled():
    deployed, compiled, plain = (
        dict(mode=mode, backend=backend)
        for mode, backend in (("deploy+graph", "auto"), ("deploy+compile+graph", "auto"), ("compile+graph", "plain"))
    )
    times = [milliseconds("gpu/compiled", **which) for which in (deployed, compiled, plain)]
    fastest = [results("gpu/compiled", **which)[0]["seconds"]["minimum"] * 1e3 for which in (deployed, compiled)]
    text = PAGE.replace("\n", " ")
    assert f"{times[1]:.1f} ms beside {times[0]:.1f} without it" in text
    assert f"the fastest rounds took {fastest[1]:.1f} and {fastest[0]:.1f}" in text
    assert f"The plain network compiled takes {times[2]:.1f} ms, {times[2] / times[1]:.1f} × as long" in text


KERNELS = json.loads(page("benchmarks/gpu/kernels.json"))
BY_PROBLEM = {entry["problem"]: entry for entry in KERNELS["results"]}
PASSES = tuple(f"rows of 64×{side}×{side}, {heads}" for side, heads in ((56, "4 heads of 16"), (28, "4 heads of 32")))
PASSES += ("rows of 64×14×14, 8 heads of 32",)
LONG_AT_STAGES = ("100×167, 4 heads of 32", "50×84, 8 heads of 32")
LONG = "rows and columns of 2×200×334, 4 heads of 16"


def of_limit(problem: str) -> str:
    return f"{BY_PROBLEM[problem]['fraction_of_floor'] * 100:.0f} %"


@pytest.mark.parametrize(
    ("start", "problem", "ways"),
    [
        ("a pass over rows of 56, forward, backward", PASSES[0], ("forward", "backward")),
        ("a pass over rows of 28", PASSES[1], ("forward", "backward")),
        ("a pass over rows of 14", PASSES[2], ("forward", "backward")),
        ("rows and columns of 200 × 334, batch 2", LONG, ("forward", "backward")),
        (
            "rows and columns of 100 × 167",
            "rows and columns of 2×100×167, 4 heads of 32",
            ("forward", "backward"),
        ),
        ("all pairs of 25 × 42", "all pairs of 2×25×42, 16 heads of 32", ("forward", "backward")),
        ("3×3 depthwise over 56 × 56 × 256, with the addition", "depthwise 3×3 of 64×56×56×256", ("forward",)),
        (
            "GELU and 3×3 depthwise over 56 × 56 × 256, forward and gradients",
            "GELU and depthwise 3×3 of 64×56×56×256",
            ("forward and gradients",),
        ),
        (
            "LayerNorm of 56 × 56 × 64, forward; forward and gradients",
            "LayerNorm of 64×56×56×64",
            ("forward", "forward and gradients"),
        ),
        ("addition and LayerNorm of 56 × 56 × 64", "addition and LayerNorm of 64×56×56×64", ("forward",)),
    ],
)
def test_gpu_kernels(start, problem, ways):
    names = [f"{problem}, {way}" for way in ways]
    entries = [BY_PROBLEM[name] for name in names]
    separator = "; " if "; " in start else ", "
    assert row(start) == [
        separator.join(f"{entry['seconds'] * 1e6:,.0f}" for entry in entries),
        separator.join(of_limit(name) for name in names),
        separator.join(f"{entry['plain_seconds'] * 1e6:,.0f}" for entry in entries),
    ]


def test_gpu_kernels_targets_and_errors():
    for start, way in (
        ("a pass along rows of 56, 28, 14, forward: fraction of its limit", "forward"),
        ("the same, backward", "backward"),
    ):
        _, measured, result = row(start)
        assert measured == ", ".join(of_limit(f"{problem}, {way}") for problem in PASSES)
        target = float(row(start)[0].strip("≥ %")) / 100
        missed = [BY_PROBLEM[f"{problem}, {way}"]["fraction_of_floor"] < target for problem in PASSES]
        assert missed == [True, False, False] and result == "56: **missed**"
    both = ", ".join(of_limit(f"{LONG}, {way}") for way in ("forward", "backward"))
    assert row("rows and columns of 200 × 334, forward, backward")[1] == both
    assert (
        f"at {KERNELS['bandwidth'] / 1e12:.2f} TB/s, or of its products at {KERNELS['rate'] / 1e12:.0f} TFLOP/s" in PAGE
    )
    assert all(entry["error"] < 5e-3 and entry["repeats"] for entry in KERNELS["results"])

    names = ("56×56, 4 heads of 16", "28×28, 4 heads of 32", "14×14, 8 heads of 32")
    times = [BY_PROBLEM[f"rows and columns of 64×{name}, backward"]["seconds"] * 1e6 for name in names]
    slower = ("rows of 64×56×56, 4 heads of 16", *(f"rows and columns of 2×{name}" for name in LONG_AT_STAGES))
    now = [BY_PROBLEM[f"{problem}, forward"]["seconds"] * 1e6 for problem in slower]
    said = re.findall(r"\((?:54 µs|71|32) then, (\d+) now\)", PAGE.replace("\n", " "))
    assert said == [f"{time:.0f}" for time in now]
    assert "of 56, 28 and 14 take {:.0f}, {:.0f} and {:.0f} µs".format(*times) in PAGE.replace("\n", " ")


def test_attention_on_an_h200():
    """The times before and after, in the lines that were printed."""
    _, now, before, *_ = page("benchmarks/gpu/h200.txt").split("\n== ")
    lines = [[line.split(maxsplit=5) for line in text.splitlines() if " rows " in line] for text in (before, now)]
    both = [{words[5]: float(words[0]) for words in found if words[0][0].isdigit()} for found in lines]

    def gain(problem: str) -> str:
        return " → ".join(f"{times[problem]:.1f}" for times in both)

    text = PAGE.replace("\n", " ")
    for way in ("forward", "backward"):
        first, second, third = (gain(f"{problem}, {way}") for problem in PASSES)
        assert f"{way} {first}, {second} and {third} µs" in text
    long = " → ".join(f"{times[f'{LONG}, forward']:.0f}" for times in both)
    assert f"200 × 334 forward {long} µs" in text


def test_launch_time():
    content = json.loads(page("benchmarks/gpu/launch-time.json"))
    own, direct = (content["medians"][name] - content["medians"]["nothing"] for name in ("triton_itself", "directly"))
    assert f"{own:.0f} → {direct:.0f} µs of the host per launch" in PAGE
