"""`rmt bench` end to end on the smallest network, and what it needs."""

import dataclasses
import json
import platform
import shlex
import subprocess
import sys
import time

import pytest
import timm
import torch
from helpers.scripts_under_test import script

from rmt.benchmark.__main__ import main
from rmt.benchmark.build import _model_and_images, build_model
from rmt.benchmark.cases import RUNTIMES, Options, list_cases
from rmt.benchmark.machine import quiet_warnings
from rmt.benchmark.memory import _resident, peak_memory, release_memory
from rmt.benchmark.plot import _label_points, plot
from rmt.benchmark.presets import PRESETS
from rmt.benchmark.reach import reach_table
from rmt.benchmark.run import run_benchmark, table
from rmt.benchmark.runtimes import runtime_step
from rmt.benchmark.series import run_series
from rmt.benchmark.timing import synchronize, time_rounds
from rmt.commands import cli
from rmt.errors import RMTError
from rmt.model import list_models

SMALL = Options(models=("rmt_pico", "test_vit"), image_sizes=("32",), rounds=2, seconds=0.01, memory=False)
SMALL = dataclasses.replace(SMALL, modes=("eager", "deploy"))


def test_cases_are_the_product_less_what_makes_no_sense():
    options = Options(
        models=("rmt_pico", "resnet18"),
        modes=("eager", "compile", "deploy", "deploy+compile"),
        backends=("auto", "plain"),
        tolerances=(0.0, 1e-3),
        steps=("forward", "train"),
    )
    cases = list_cases(options, frozenset({"rmt_pico"}))
    peers = [(c.mode, c.step) for c in cases if c.model == "resnet18"]
    assert sorted(peers) == [(m, s) for m in ("compile", "eager") for s in ("forward", "train")]
    ours = [c for c in cases if c.model == "rmt_pico"]
    # forward: 2 backends × (2 undeployed + 2 deployed × 2 tolerances); train: 2 backends × 2 undeployed
    assert len(ours) == 2 * (2 + 4) + 2 * 2
    with pytest.raises(RMTError, match="--modes: 'fast' is not one of eager"):
        list_cases(Options(modes=("fast",)), frozenset())
    for backends in (dict(modes=("eager/fast",)), dict(backends=("plain", "fast"))):
        with pytest.raises(RMTError, match="--backends: 'fast' is not one of auto, plain"):
            list_cases(Options(**backends), frozenset())


def test_sizes_need_not_be_square():
    (case,) = list_cases(Options(models=("rmt_pico",), image_sizes=("64x96",), modes=("eager",)), frozenset())
    assert (case.image_size, case.image_width) == (64, 96)
    assert "64×96" in case.label
    for words in ("big", "0", "x64"):
        with pytest.raises(RMTError, match=words):
            list_cases(Options(image_sizes=(words,)), frozenset())


def test_each_network_can_have_the_size_of_its_published_accuracy():
    models = ("fastvit_sa12", "swin_tiny_patch4_window7_224", "tf_efficientnet_b5", "rmt_small", "resnet18")
    cases = list_cases(Options(models=models, image_sizes=("published",), modes=("eager",)), frozenset(list_models()))
    assert [(case.image_size, case.image_width) for case in cases] == [(s, s) for s in (256, 224, 456, 224, 224)]


def test_a_network_of_timm_has_the_classes_of_its_published_accuracy():
    with torch.device("meta"):
        model = build_model("tiny_vit_21m_224", (224, 224), seed=0)  # ImageNet-22k's 21,841 by default
    assert model.num_classes == 1000 and sum(p.numel() for p in model.parameters()) == pytest.approx(21.2e6, rel=0.01)


def test_timm_s_networks_run_in_the_form_they_are_used_in():
    cases = list_cases(Options(models=("repvit_m0_9",), steps=("forward", "train"), modes=("eager",)), frozenset())
    forward, train = (_model_and_images(case, Options())[0] for case in cases)
    batch_norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()) for model in (forward, train)]
    assert batch_norms[0] == 0 < batch_norms[1]


def test_graphs_are_for_cuda():
    with pytest.raises(RMTError, match="graph is for CUDA"):
        list_cases(Options(modes=("eager+graph",)), frozenset())
    options = Options(
        modes=("eager+graph/plain", "deploy+compile+graph"), device="cuda", models=("rmt_pico", "resnet18")
    )
    found = {(case.model, case.mode, case.backend) for case in list_cases(options, frozenset({"rmt_pico"}))}
    assert found == {
        ("rmt_pico", "eager+graph", "plain"),
        ("rmt_pico", "deploy+compile+graph", "auto"),
        ("resnet18", "eager+graph", "auto"),
        ("resnet18", "compile+graph", "auto"),
    }


def test_a_run_records_what_it_measured(tmp_path):
    path = tmp_path / "results" / "run.json"
    options = dataclasses.replace(SMALL, batches=(2,), steps=("forward", "train"))
    content = run_benchmark(options, path, command="typed")
    assert json.loads(path.read_text()) == json.loads(json.dumps(content))
    assert {"torch", "timm", "threads", "tf32", "cpu"} <= content["machine"].keys()
    assert content["command"] == "typed"
    assert len(content["results"]) == 3 + 2  # eager and deployed forward, eager training; a peer has no deployed form
    ours = content["results"][0]
    assert ours["parameters"] > 9e5
    assert ours["macs"] > 5e6
    assert ours["images_per_second"] == pytest.approx(2 / ours["seconds"]["median"])
    assert 0 < ours["fraction_of_matrix_peak"] < 1
    assert len(table(content | dict(warnings=[])).splitlines()) == 6


def test_times_are_kept_when_it_is_stopped_while_memory_is_measured(tmp_path, monkeypatch):
    path, found = tmp_path / "run.json", iter([123])  # bytes of the first case; the second stops

    def stopping(case, options):
        try:
            return next(found)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("rmt.benchmark.run.peak_memory", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(dataclasses.replace(SMALL, memory=True), path)
    results = json.loads(path.read_text())["results"]
    assert [entry["peak_memory"] for entry in results] == [123, None, None]
    assert all(entry["images_per_second"] > 0 for entry in results)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark")
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries keep no freed memory, or cannot release it"
)
def test_freed_memory_is_given_back():
    """Blocks below the allocator's threshold stay in the process, if one above them is in use."""
    blocks = [bytearray(100_000) for _ in range(2000)]
    del blocks[:-1]
    before = _resident("VmRSS")
    release_memory()
    assert before - _resident("VmRSS") > 150e6


def test_peak_memory_in_a_process_of_its_own():
    case = list_cases(dataclasses.replace(SMALL, image_sizes=("224",), modes=("eager",)), frozenset({"rmt_pico"}))[0]
    assert 1e6 < peak_memory(case, SMALL) < 1e9


def test_a_case_that_cannot_run_leaves_the_others(monkeypatch, capsys):
    def fails(dtype, device):
        raise RuntimeError("no memory for it")

    monkeypatch.setattr("rmt.benchmark.run.matrix_product", fails)
    options = Options(
        models=("rmt_test",), image_sizes=("32",), batches=(2,), rounds=2, seconds=0.01, memory=False,
        modes=("eager",), backends=("plain", "flex"), steps=("train",),
    )  # fmt: skip
    content = run_benchmark(options)
    assert "no backward on a CPU" in content["results"][1]["failed"]
    assert content["results"][0]["images_per_second"] > 0
    assert content["results"][0]["fraction_of_matrix_peak"] is None and content["matrix_peak"] == {}
    assert "a matrix product in float32\n  left out: no memory for it\n" in capsys.readouterr().err
    assert "no backward on a CPU" in table(content)


def test_mistakes_end_in_one_line():
    # An exit status that is a text is printed to stderr, and the exit code is 1.
    with pytest.raises(SystemExit, match=r"^rmt\.benchmark: no network named '.*' in rmt or timm.*$"):
        main(["--models", "no_such_network", "--rounds", "1"])
    with pytest.raises(SystemExit, match=r"^rmt\.benchmark: --modes: 'fast' is not one of .*$"):
        main(["--modes", "fast"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "gpu"], "--device gpu: choose one of cpu"),
        (["--device", "mps"], "no Apple GPU"),
        (["--batches", "0"], "--batches and --rounds must be at least 1"),
        (["--seconds", "-1"], "must not be negative"),
        (["--preset", "table12"], "--preset table12: there is none of this name; choose one of cpu-224"),
        (["--modes", "deploy", "--steps", "train"], "no case is possible"),
        (["--preset", "table11", "--rounds", "0"], "--batches and --rounds must be at least 1"),
        (["--preset", "table11", "--reference", "none"], "no network named 'none'"),
        (["--models", "test_vit", "--image-sizes", "33", "--modes", "eager", "--no-memory"], "test_vit, 33, batch 8"),
        (["--output", "/proc/no/file.json"], "cannot write /proc/no: No such file or directory"),
    ],
)
def test_wrong_options_end_in_one_line(words, message):
    with pytest.raises(SystemExit) as stop:
        main(words)
    text = str(stop.value.code)
    assert text.startswith("rmt.benchmark: ") and message in text and "\n" not in text


@pytest.mark.parametrize("name", ["repvit_m0_9", "efficientvit_b0", "test_resnet.r160_in1k"])
def test_networks_that_lack_an_argument_are_built(name):
    """The first two have no `drop_path_rate`; the name of the last is one with a tag."""
    assert sum(p.numel() for p in build_model(name, (64, 64), seed=0).parameters()) > 1e5


def test_peers_are_compiled_by_default():
    cases = list_cases(Options(models=("rmt_pico", "resnet18")), frozenset({"rmt_pico"}))
    assert {c.mode for c in cases if c.model == "resnet18"} == {"eager", "compile"}
    assert {c.mode for c in cases if c.model == "rmt_pico"} == {"eager", "deploy", "deploy+compile"}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_other_runtimes_compute_the_same(runtime):
    for package in ("onnx", "onnxscript", runtime):
        pytest.importorskip(package)
    torch.manual_seed(0)
    model, images = build_model("rmt_pico", (32, 32), seed=0).eval(), torch.randn(2, 3, 32, 32)
    (found,) = (
        runtime_step(runtime, model, images)()
        if runtime == "onnxruntime"
        else list(runtime_step(runtime, model, images)().values())
    )
    with torch.no_grad():
        assert torch.allclose(torch.as_tensor(found), model(images), atol=1e-4)
    train = Options(models=("rmt_pico",), modes=(runtime, "eager"), steps=("forward", "train"))
    assert [(c.mode, c.step) for c in list_cases(train, frozenset({"rmt_pico"}))] == [
        (runtime, "forward"), ("eager", "forward"), ("eager", "train")
    ]  # fmt: skip


def test_a_busy_machine_is_said():
    assert quiet_warnings(0.0, [0.01, 0.1]) == quiet_warnings(None, []) == []
    load, spread = quiet_warnings(1000.0, [0.3, 0.01])
    assert "1000.0 processes" in load and "1 of 2 cases varied" in spread and "30%" in spread
    assert "note: busy" in table(dict(results=[], warnings=["busy"]))


def test_a_series_continues_where_it_stopped(tmp_path):
    """Each network beside the reference; what the file has is not measured again."""
    calls: list[tuple] = []

    def run(options, output, command=""):
        calls.append((*options.models, *options.steps, *options.image_sizes))
        if options.models[0] == "broken":
            raise RMTError("no such network")
        results = [
            dict(model=name, step=options.steps[0], images_per_second=10.0 * (i + 1), mode="eager")
            for i, name in enumerate(options.models)
        ]
        return dict(started="now", machine={}, warnings=["busy"], results=results)

    options = Options(
        models=("rmt_small", "broken", "fastvit_sa12"), image_sizes=("published",), steps=("forward",), reference="swin"
    )
    path = tmp_path / "run.json"
    content = run_series(run, options, path)
    assert calls == [
        ("rmt_small", "swin", "forward", "published"), ("broken", "swin", "forward", "published"),
        ("fastvit_sa12", "swin", "forward", "published"),
    ]  # fmt: skip
    assert [entry.get("reference_images_per_second") for entry in content["results"]] == [20.0, None, 20.0]
    assert content["results"][0]["published"]["top1"] == 84.1 and "failed" in content["results"][1]
    assert content["warnings"] == ["2 of 3 results were disturbed: see the `warnings` of each"]
    more = dataclasses.replace(options, models=(*options.models, "swin"), steps=("forward",))
    assert len(run_series(run, more, path)["results"]) == 4
    assert calls[3:] == [("broken", "swin", "forward", "published"), ("swin", "forward", "published")]
    assert json.loads(path.read_text())["results"][3]["model"] == "swin"
    path.write_text(path.read_text().replace("84.1", "80.0"))  # what was listed when it was measured
    run_series(run, more, path)
    assert json.loads(path.read_text())["results"][0]["published"]["top1"] == 84.1
    with pytest.raises(RMTError, match="the results of other options"):
        run_series(run, dataclasses.replace(options, rounds=3), path)
    path.write_text("{}")
    with pytest.raises(RMTError, match="not the results of such a run"):
        run_series(run, options, path)


def test_presets_are_possible():
    names = {*list_models(), *timm.list_models()}
    for name, options in PRESETS.items():
        assert set(options.models) <= names, name
        assert list_cases(options, frozenset(list_models()))


@pytest.mark.parametrize(("run", "before"), [(main, []), (cli.main, ["bench"])])
def test_the_defaults_are_those_of_the_preset(run, before, monkeypatch, capsys):
    """The words are those that `run` is called with, not those of the process."""
    measured = []
    for module in ("rmt.benchmark.run", "rmt.benchmark.__main__"):
        monkeypatch.setattr(f"{module}.run_benchmark", lambda *args, **kwargs: measured.append((*args, kwargs)))
        monkeypatch.setattr(f"{module}.table", str)
    monkeypatch.setattr(sys, "argv", ["other", "--seconds", "3"])
    words = ["--preset", "cpu-latency", "--rounds=2", "--batches", "8", "--no-memory"]  # 8 is the general default
    run([*before, *words])
    ((options, output, kwargs),) = measured
    assert options == dataclasses.replace(PRESETS["cpu-latency"], rounds=2, batches=(8,), memory=False)
    assert output is None and kwargs["command"].endswith(shlex.join([*before, *words]))
    with pytest.raises(SystemExit):
        run([*before, *words, "--help"])
    assert run is main or "(default: rmt_tiny)" in capsys.readouterr().out


def test_a_gpu_with_a_number_is_made_the_current_one(monkeypatch):
    """Events and memory counters are those of the current device."""
    chosen = []

    def set_device(number):
        chosen.append(number)
        raise RMTError("there is none")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    with pytest.raises(RMTError, match="there is none"):
        run_benchmark(dataclasses.replace(SMALL, device="cuda:1"))
    assert chosen == [1]
    with pytest.raises(RMTError, match="--device cuda:: choose one of"):
        run_benchmark(dataclasses.replace(SMALL, device="cuda:"))


def test_calls_of_an_apple_gpu_are_waited_for(monkeypatch):
    """They return before they are done."""
    calls = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("wait"))
    options = Options(device="mps", rounds=1, seconds=0.0)
    time_rounds({"a": lambda: calls.append("call")}, options, lambda line: None)
    assert calls == ["wait", "call", "wait"] * 2
    case = list_cases(SMALL, frozenset(list_models()))[0]
    assert peak_memory(case, dataclasses.replace(SMALL, device="mps")) is None


@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_the_first_call_is_waited_for(device, monkeypatch):
    monkeypatch.setattr(getattr(torch, device.partition(":")[0]), "synchronize", lambda: time.sleep(0.05))
    monkeypatch.setattr("rmt.benchmark.run.synchronize", lambda cpu: synchronize(device))
    monkeypatch.setattr("rmt.benchmark.run.matrix_product", lambda *args: (list, 1))
    monkeypatch.setattr("rmt.benchmark.run.build_step", lambda *args: list)
    options = dataclasses.replace(SMALL, models=("rmt_test",), modes=("eager",), rounds=1)
    assert run_benchmark(options)["results"][0]["first_call"] > 0.05


def test_it_needs_torch_timm_and_numpy_alone():
    """Every other package that our commands use is made unimportable."""
    code = """
import sys
for name in ("lightning", "tyro", "datasets", "torchmetrics", "matplotlib", "tensorboard", "pyarrow", "rich", "scipy",
             "pandas", "sklearn", "faster_coco_eval"):
    sys.modules[name] = None  # as if it were not installed
from rmt.benchmark.__main__ import main
main(["--models", "rmt_pico", "--image-sizes", "32", "--batches", "1", "--rounds", "1", "--seconds", "0.01",
      "--no-memory", "--modes", "deploy"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rmt_pico" in done.stdout


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    results = [
        dict(
            model=model, image_size=size, batch=8, dtype="float32", mode="eager", backend="auto", tolerance=0.0,
            step="forward", images_per_second=10.0,
        )
        for model in ("rmt_small", "convnext_tiny")
        for size in (224, 448)
    ]  # fmt: skip
    content = dict(machine=dict(cpu="a CPU", threads=2, torch="2.14"), results=results)
    drawn = plot(content, tmp_path / "run.json")
    assert [path.name for path in drawn] == ["run.png", "run-pixels.png"]
    assert all(path.stat().st_size > 10_000 for path in drawn)
    for result in results:
        result |= dict(macs=4e9, reference_images_per_second=20.0)
    series = content | dict(series=dict(reference="swin_tiny"))
    assert [path.name for path in plot(series, tmp_path / "series.json")] == ["series.png", "series-macs.png"]


def test_labels_of_near_points_do_not_overlap():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(4, 2))
    axes = figure.subplots()
    points = {f"network_{n}": [x, 83.5] for n, x in enumerate((0.6, 0.7, 0.8, 1.0))}
    axes.plot(*zip(*points.values(), strict=True), "o")
    axes.margins(x=0.5)
    _label_points(axes, points, list(points.values()))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == set(points)
    assert not any(box.count_overlaps(boxes[:i]) for i, box in enumerate(boxes))


def test_reach_table():
    lines = reach_table("rmt_small", 1792, [1e-5], 0.0).splitlines()
    assert len(lines) == 2 + 4 + 4 + 8 + 16
    assert lines[2].split() == ["1", "0", "0.75000", "40", "(160)"]
    assert lines[-1].split()[-1] == "all"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure")
def test_kernels_need_a_gpu_and_say_so():
    with pytest.raises(SystemExit) as exit:
        script("kernels", "benchmarks").main([])
    assert exit.value.code == "kernels.py: this machine has no CUDA device that PyTorch can use"
