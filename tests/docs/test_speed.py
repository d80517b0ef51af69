"""The figures in docs/speed.md and the README are those of the committed results."""

import json

import pytest
from helpers.documentation import page

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


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_gpu_forward_of_ours(size):
    times = [
        results("gpu/forward", model=f"rmt_{size}", mode=mode, backend=backend)[0]["seconds"]
        for mode, backend in (("eager", "plain"), ("eager", "auto"), ("eager+graph", "plain"), ("deploy+graph", "auto"))
    ]
    plain, kernels, graph, deployed = (time["median"] * 1e3 for time in times)
    low, high = times[1]["quartiles"]
    spread = f"± {(high - low) / 2 / times[1]['median']:.0%}".replace("%", " %")
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| RMT-{size[0].upper()} |")]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][2:] == [
        *(f"{plain:.1f}", f"{kernels:.1f} ({spread})", f"{graph:.1f}", f"{deployed:.1f}"),
        *(f"{plain / deployed:.1f}", f"{graph / deployed:.1f}"),
    ]

    before, after = (results("gpu/large", model=f"rmt_{size}", mode=mode)[0] for mode in ("eager", "deploy+graph"))
    assert [cell.strip() for cell in lines[1].strip("|").split("|")][1:] == [
        *(f"{entry['seconds']['median'] * 1e3:.1f}" for entry in (before, after)),
        f"{before['peak_memory'] / 1e6:,.0f} → {after['peak_memory'] / 1e6:,.0f}",
    ]


def test_gpu_peers_and_training():
    for entry in results("gpu/forward", mode="eager+graph", backend="auto"):
        name = entry["model"].removesuffix("_patch4_window7_224").removesuffix("_tf_224")
        assert row(name)[1] == f"{entry['seconds']['median'] * 1e3:.1f}"

    plain, ours = (
        milliseconds("gpu/train", model="rmt_small", mode="eager+graph", backend=name) for name in ("plain", "auto")
    )
    swin = milliseconds("gpu/train", model=SWIN, mode="eager+graph")
    assert row("graph, ms") == [f"{plain:.1f}", f"{ours:.1f}", f"{plain / ours:.2f} × (swin_tiny: {swin:.1f})"]
    memory = [results("gpu/train", mode="eager", backend=b)[0]["peak_memory"] / 1e9 for b in ("plain", "auto")]
    assert row("peak memory, GB")[:2] == [f"{gigabytes:.2f}" for gigabytes in memory]
    deployed = milliseconds("gpu/forward", model="rmt_small", mode="deploy+graph")
    graph = milliseconds("gpu/forward", model="rmt_small", mode="eager+graph", backend="plain")
    claim = f"{round(64e3 / deployed, -2):,.0f} images/s deployed, {graph / deployed:.1f} × plain PyTorch"
    assert claim in README.replace("\n", " ")
    assert f"a training step {plain / ours:.1f} × as fast" in README.replace("\n", " ")


def test_gpu_kernels():
    content = json.loads(page("benchmarks/gpu/kernels.json"))
    kernels = {entry["problem"]: entry for entry in content["results"]}
    for start, problem in (
        ("a pass over rows of 28", "rows of 64×28×28, 4 heads of 32"),
        ("a pass over rows of 14", "rows of 64×14×14, 8 heads of 32"),
        ("rows and columns of 200 × 334, batch 2", "rows and columns of 2×200×334, 4 heads of 16"),
    ):
        both = [kernels[f"{problem}, {way}"] for way in ("forward", "backward")]
        assert row(start) == [
            ", ".join(f"{entry['seconds'] * 1e6:,.0f}" for entry in both),
            ", ".join(f"{entry['fraction_of_floor'] * 100:.0f} %" for entry in both),
            ", ".join(f"{entry['plain_seconds'] * 1e6:,.0f}" for entry in both),
        ]
    assert all(entry["error"] < 5e-3 and entry["repeats"] for entry in kernels.values())


def test_launch_time():
    content = json.loads(page("benchmarks/launch-time.json"))
    own, direct = (content["medians"][name] - content["medians"]["nothing"] for name in ("triton_itself", "directly"))
    assert f"{own:.0f} → {direct:.0f} µs of the host per launch" in PAGE
