"""The cells and tables of `benchmarks/evidence.py`."""

import json
import math
import sys
from pathlib import Path

import pytest
import timm
import torch
import tyro
from helpers.documentation import page
from helpers.pictures import make_folder
from helpers.scripts_under_test import script

import rmt  # noqa: F401  registers its networks
from rmt.commands.train import spell_out_flags
from rmt.model.cost import count_macs
from rmt.recipes import RECIPES
from rmt.recipes.model_args import parse_model_args

TABLES = script("evidence_tables", "benchmarks")
PAGE = script("evidence_page", "benchmarks")
PLOTS = script("evidence_plots", "benchmarks")
STEPS = script("step_times", "benchmarks")
EVIDENCE = script("evidence", "benchmarks")
SIZES = {"masa": 0.31, "deit": 0.81, "deit-masa": 0.81, "swin": 0.54, "swin-masa": 0.54}


def build(rows, row, side=32):
    arguments = parse_model_args(rows[row].args)
    if rows[row].model.startswith(("swin", "deit")):
        arguments["img_size"] = side
    return timm.create_model(rows[row].model, num_classes=10, **arguments)


def millions(model):
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_the_seconds_of_a_command_are_those_of_all_its_processes(tmp_path):
    """And its output is in the file; a command that fails ends the program with the file's name."""
    spin = "import time\nwhile time.process_time() < 0.3: pass\nprint('done')"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {spin!r}])"
    with (tmp_path / "a.log").open("a") as log:
        used = EVIDENCE.run_timed([sys.executable, "-S", "-c", nested], log)
        assert used["cpu_seconds"] >= 0.3 <= used["wall_seconds"]
        with pytest.raises(SystemExit, match=f"exit code 3; its output is in {tmp_path}/a.log"):
            EVIDENCE.run_timed([sys.executable, "-S", "-c", "raise SystemExit(3)"], log)
    assert (tmp_path / "a.log").read_text() == "done\n"


def test_pairs_of_designs_have_equal_sizes():
    for row, size in SIZES.items():
        assert millions(build(TABLES.ABLATIONS, row)) == pytest.approx(size, rel=0.03), row


@pytest.mark.parametrize("table", ["peers-32", "peers-64"])
@pytest.mark.parametrize("row", TABLES.peers(2))
def test_peers_have_one_to_three_million_parameters_and_the_recorded_cost(table, row):
    side = int(table.removeprefix("peers-"))
    network = build(TABLES.TABLES[table].rows, row, side)
    assert 0.9 < millions(network) < 3
    recorded = PLOTS.step_of(json.loads(page(f"benchmarks/evidence/{table}.json")), row)
    assert count_macs(network, side, side) == recorded["macs"]


@pytest.mark.parametrize("row", TABLES.ABLATIONS)
def test_the_ablations_have_one_augmentation_and_test_crop(row):
    """What the options leave open, the recipe chooses by the network."""
    words = TABLES.TABLES["ablations-1-percent"].command(row, 40, 0).split()
    base = RECIPES["finetune"]()
    recipe = tyro.cli(type(base), default=base, args=spell_out_flags(type(base), words[3:]))
    chosen = ("crop_padding", "crop_pct", "randaugment", "random_erasing", "image_size", "batch_size", "lr")
    assert "auto" not in {getattr(recipe, name) for name in chosen}


def entry(row, seed, test, kind="seed"):
    return {
        "row": row,
        "kind": f"{kind} {seed}",
        "command": f"rmt train --seed {seed}",
        "seed": seed,
        "test": test,
        "parameters": 3e5,
        "cpu_seconds": 60.0,
    } | {"epochs": 40}


def stepping(row, seconds, steps):
    return {"row": row, "kind": "step", "step_seconds": seconds, "steps_per_epoch": steps, "macs": 27_200_000}


def test_differences_are_paired_by_seed():
    masa, other = {0: 50.0, 1: 52.0, 2: 54.0}, {0: 49.0, 1: 50.0, 2: 51.0}
    entries = [entry("masa", *pair) for pair in masa.items()] + [entry("attention", *pair) for pair in other.items()]
    lines = list(PAGE.table_lines(TABLES.TABLES["ablations-1-percent"], entries))
    assert "52.00 ± 1.15 | – |" in lines[2]  # the standard deviation 2 by √3
    assert "50.00 ± 0.58 | -2.00 ± 0.58 |" in lines[3]
    assert len(lines) == 4  # what was not run has no row


def test_a_page_keeps_what_was_not_measured(tmp_path):
    file, results = tmp_path / "page.md", tmp_path / "results"
    results.mkdir()
    marks = "<!-- evidence: {} -->\nbefore\n<!-- /evidence -->\n"
    file.write_text(marks.format("ablations-1-percent") + marks.format("camvid"), encoding="utf-8")
    entries = [entry("masa", 0, 50.0) | {"cpu": "a processor", "commit": "abc"}]
    (results / "ablations-1-percent.json").write_text(json.dumps(entries))
    PAGE.write(results, [file])
    text = file.read_text(encoding="utf-8")
    assert "| 50.00 | – | 1 | 60 |" in text and "a processor" in text
    assert "<!-- evidence: camvid -->\nbefore\n" in text


def test_a_table_of_peers_has_their_epochs_and_rates_once_a_row_is_there(tmp_path):
    (tmp_path / "images").mkdir()
    (page := tmp_path / "page.md").write_text("<!-- evidence: peers-32 -->\nbefore\n<!-- /evidence -->\n")
    known = {
        "cpu": "a processor",
        "gpu": "a GPU",
        "commit": "abc",
        "command": "rmt train finetune --epochs 9 --lr 0.002 --seed 0",
    }
    known |= {"curve": [[1.0, 40.0], [2.0, 60.0]]}
    chosen = [stepping("rmt", 0.5, 6) | known, entry("rmt", 0, 50.0, "rate") | known]
    (tmp_path / "peers-32.json").write_text(json.dumps(chosen))
    PAGE.write(tmp_path, [page])
    assert "before" in page.read_text(encoding="utf-8") and not list((tmp_path / "images").iterdir())
    (tmp_path / "peers-32.json").write_text(json.dumps([*chosen, entry("rmt", 0, 61.0) | known]))
    PAGE.write(tmp_path, [page])
    text = page.read_text(encoding="utf-8")
    assert "| RMT | 0.30 M | 27 M | 61.00 | 40 | 0.002 | 1 | 120 |" in text and "\na GPU; `bench" in text
    assert (tmp_path / "images/evidence-peers-32.png").stat().st_size > 10_000


def test_sizes_are_a_table_and_a_curve(tmp_path):
    (tmp_path / "images").mkdir()
    (page := tmp_path / "page.md").write_text("<!-- evidence: sizes -->\nbefore\n<!-- /evidence -->\n")
    known = {"cpu": "a processor", "commit": "abc"}
    entries = [
        {"row": row, "seed": seed, "side": side, "test": side[0] + seed} | known
        for row in ("masa", "no-phases") for seed in (0, 2) for side in TABLES.SIDES
    ]  # fmt: skip
    (tmp_path / "sizes.json").write_text(json.dumps(entries))
    PAGE.write(tmp_path, [page])
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line.count("|") for line in lines[1:5]] == [len(TABLES.SIDES) + 2] * 4
    assert lines[3].startswith("| MaSA, row-major phases, as released | 17.00 ± 1.00 | 25.00 ± 1.00 | 33.00")
    assert "images/evidence-sizes.png" in lines[-2] and (tmp_path / "images/evidence-sizes.png").stat().st_size > 10_000


def measured(model, step, mode="eager", **more):
    known = dict(image_size=224, image_width=224, batch=8, dtype="float32", backend="auto", tolerance=0.0)
    known |= dict(images_per_second=12.0, reference_images_per_second=8.0, peak_memory=3e8, macs=4.5e9, parameters=27e6)
    return dict(model=model, step=step, mode=mode) | known | more


def test_the_table_of_costs_has_speeds_beside_the_reference(tmp_path):
    (tmp_path / "images").mkdir()
    (page := tmp_path / "page.md").write_text("<!-- evidence: table11 -->\nbefore\n<!-- /evidence -->\n")
    results = [
        measured("rmt_small", "forward"),
        measured("rmt_small", "forward", "deploy", images_per_second=16.0),
        measured("rmt_small", "train", images_per_second=2.0, reference_images_per_second=2.0, peak_memory=None),
        measured("fastvit_sa12", "forward", image_size=256, image_width=256, macs=None),
        measured("volo_d1_224", "forward"),
        dict(model="convnext_tiny", step="forward", failed="too little memory"),
    ]
    machine = dict(cpu="a processor", threads=2, torch="2.14", timm="1.0")
    content = dict(series=dict(reference="swin_tiny_patch4_window7_224"), machine=machine, started="now")
    (tmp_path / "table11.json").write_text(json.dumps(content | dict(results=results, warnings=["it was not quiet"])))
    PAGE.write(tmp_path, [page])
    text = page.read_text(encoding="utf-8")
    assert "| rmt_small | 224 | 27 M | 4.5 G | 1.50 | 2.00 | 1.00 | 300 MB | – | 84.1 | [2309.11523](https://" in text
    source = "[ml-fastvit](https://github.com/apple/ml-fastvit)"
    assert f"| fastvit_sa12 | 256 | 27 M | – | 1.50 | – | – | 300 MB | – | 80.9 | {source} |" in text
    source = "[2106.13112](https://arxiv.org/abs/2106.13112), [volo](https://github.com/sail-sg/volo)"
    assert f"| volo_d1_224 | 224 | 27 M | 4.5 G | 1.50 | – | – | 300 MB | – | 84.2 † | {source} |" in text
    assert "8.0 images/s forward, 2.0 images/s train" in text
    assert "It was not quiet." in text and "convnext_tiny" not in text
    for plot in ("evidence-table11.png", "evidence-table11-macs.png"):
        assert f"images/{plot}" in text and (tmp_path / "images" / plot).exists()


@pytest.mark.parametrize("name", ["docs/evidence.md", "docs/training.md", "docs/detection.md", "docs/segmentation.md"])
def test_the_pages_show_the_committed_results(name, tmp_path):
    text = page(name)
    (copy := tmp_path / "page.md").write_text(text, encoding="utf-8")
    (tmp_path / "images").mkdir()
    PAGE.write(EVIDENCE.RESULTS, [copy])
    assert copy.read_text(encoding="utf-8") == text


def runner(folder):
    return EVIDENCE.Runner(Path("data"), folder, folder, [EVIDENCE.Place(0)])


def test_epochs_fill_the_time(tmp_path):
    (tmp_path / "peers-32.json").write_text(json.dumps([stepping("rmt", 0.05, 10)]))
    assert runner(tmp_path).epochs("peers-32", "rmt", 1.0) == 480  # 240 s, an epoch takes 0.5
    assert runner(tmp_path).epochs("peers-32", "rmt", 0.5) == 240


def test_the_learning_rate_is_the_best_of_those_tried_at_32(tmp_path, monkeypatch):
    scores = {0.006: 40.0, 0.012: 50.0, 0.024: 45.0}
    tried = [entry("rmt", f"{rate:g}", 0, "rate") | {"val": val} for rate, val in scores.items()]
    (tmp_path / "peers-64.json").write_text(json.dumps([stepping("rmt", 0.2, 10)]))
    typed = []
    monkeypatch.setattr(EVIDENCE.Runner, "cell", lambda self, *arguments: typed.append(arguments))
    with pytest.raises(SystemExit, match="run that table first"):
        runner(tmp_path).seed(EVIDENCE.Place(0), "peers-64", "rmt", 0)
    (tmp_path / "peers-32.json").write_text(json.dumps([stepping("rmt", 0.1, 10), *tried]))
    runner(tmp_path).seed(EVIDENCE.Place(0), "peers-64", "rmt", 0)
    assert typed == [(EVIDENCE.Place(0), "peers-64", "rmt", "seed 0", 200, 0, "--lr 0.012")]  # 400 s of 2 each


@pytest.mark.parametrize("best", [0.0015, 0.012, 0.1])
def test_learning_rates_are_tried_until_the_best_lies_between_others(tmp_path, monkeypatch, best):
    file, run = tmp_path / "peers-32.json", runner(tmp_path)
    file.write_text(json.dumps([stepping("rmt", 0.1, 10)]))

    def reached(rate):
        return -abs(math.log(rate / best))

    def rate(self, place, name, row, rate):
        tried = entry("rmt", f"{rate:g}", 0, "rate") | {"val": reached(rate)}
        file.write_text(json.dumps([*json.loads(file.read_text()), tried]))

    monkeypatch.setattr(EVIDENCE.Runner, "rate", rate)
    for value in TABLES.TABLES["peers-32"].rates:
        run.rate(None, "peers-32", "rmt", value)
    run.enclose(EVIDENCE.Place(0), "peers-32", "rmt")
    tried = sorted(run.tried("peers-32", "rmt"))
    found = run.best_rate("peers-32", "rmt")
    assert tried[0] < found < tried[-1] and len(tried) <= 6
    assert found == min(tried, key=lambda value: abs(math.log(value / best)))


def test_the_time_of_a_resumed_run_does_not_count(tmp_path, monkeypatch):
    """Its CPU seconds lack those before it was resumed."""
    runs = [entry("faster-rcnn", 0, 90.0) | {"resumed": False}, entry("faster-rcnn", 1, 88.0) | {"resumed": True}]
    runs[1]["cpu_seconds"] = 3.0
    lines = list(PAGE.table_lines(TABLES.TABLES["bccd"], runs))
    assert lines[2].endswith("| 2 | 60 |")

    typed = []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "add", lambda *arguments: None)
    (tmp_path / "bccd.torchvision.seed-1.json").write_text('{"score": 80.0, "parameters": 1, "images_seen": 640}')
    (tmp_path / "bccd.json").write_text(json.dumps(runs))
    runner(tmp_path).baseline(EVIDENCE.Place(0), "bccd", "torchvision", 1)
    assert "--cpu-seconds 60 " in typed[0]
    (tmp_path / "bccd.json").write_text(json.dumps(runs[1:]))
    with pytest.raises(SystemExit, match="run another seed"):
        runner(tmp_path).baseline(EVIDENCE.Place(0), "bccd", "torchvision", 1)
    (tmp_path / "bccd.json").write_text(json.dumps([runs[0], runs[1] | {"resumed": False}]))
    runner(tmp_path).baseline(EVIDENCE.Place(0), "bccd", "torchvision", 1)
    assert "--cpu-seconds 3 " in typed[1]  # of the same seed, so of the same processor


@pytest.mark.parametrize(("workers", "more"), [(0, ""), (3, " --workers 3")])
def test_a_cell_that_was_killed_goes_on(tmp_path, monkeypatch, workers, more):
    (folder := tmp_path / "peers-32.rmt.seed-0").mkdir()
    (folder / "last.ckpt").touch()
    typed = []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "scores", lambda *arguments: {})
    monkeypatch.setattr(EVIDENCE.Runner, "add", lambda *arguments: None)
    runner(tmp_path).cell(EVIDENCE.Place(gpu=0, workers=workers), "peers-32", "rmt", "seed 0", 3, 0)
    assert typed == [f"rmt train --resume peers-32.rmt.seed-0{more}"]


def test_steps_are_measured_of_the_rows_that_lack_them(tmp_path, monkeypatch):
    """Of all of them in one process, in turn."""
    (tmp_path / "peers-32.json").write_text(json.dumps([stepping("rmt", 0.1, 10)]))
    typed = []

    def call(self, place, command, output):
        typed.append(command)
        found = {row: dict(step_seconds=0.5, steps_per_epoch=4, rounds=[0.5]) for row in command.split()[4:]}
        (self.work / "peers-32.steps.json").write_text(json.dumps(found))

    monkeypatch.setattr(EVIDENCE.Runner, "call", call)
    for _ in range(2):
        runner(tmp_path).steps("peers-32", ["rmt", "swin", "deit"])
    assert typed == ["python step_times.py peers-32 peers-32.steps.json swin deit"]
    assert PLOTS.epoch_seconds(json.loads((tmp_path / "peers-32.json").read_text()), "deit") == 2.0


def test_the_time_of_a_step_is_that_of_the_run(tmp_path, monkeypatch):
    """Loading is not counted, and the network does not change."""
    make_folder(tmp_path / "photos", train=4)
    monkeypatch.chdir(tmp_path)
    command = "rmt train finetune --minutes 0 --workers 0 --data photos --model rmt_nano --epochs 1 --image-size 32"
    built = []
    monkeypatch.setattr(STEPS, "configure_network", lambda network, *rest: built.append(network))
    step, steps, macs = STEPS.prepare(f"{command} --batch-size 4 --optimizer muon --ema-decay 0 --seed 0")
    assert steps == 3 and macs == count_macs(built[0], 32, 32)  # of 12 images
    before = [parameter.detach().clone() for parameter in built[0].parameters()]
    calls = []
    monkeypatch.setattr(STEPS.time, "perf_counter", lambda: float(len(calls)))
    assert STEPS.seconds(lambda: calls.append(step()), 2.0) == 1.0 and len(calls) == 2
    assert all(map(torch.equal, before, built[0].parameters()))


def test_a_learning_rate_is_chosen_without_the_test_images(tmp_path, monkeypatch):
    (folder := tmp_path / "peers-32.rmt.rate-0.012.lr-0.012").mkdir()
    found = {"last": {"raw": {"val": {"top1": 40.0}}}, "parameters": 3}
    (folder / "metrics.json").write_text(json.dumps(found))
    typed, added = [], []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "add", lambda self, name, entry: added.append(entry))
    (tmp_path / "peers-32.json").write_text(json.dumps([stepping("rmt", 0.5, 10)]))
    runner(tmp_path).rate(EVIDENCE.Place(0), "peers-32", "rmt", 0.012)
    assert "--data cifar10-5000-train " in typed[0] and added[0]["val"] == 40.0 and "test" not in added[0]


def test_a_cell_with_a_result_is_not_run_again(tmp_path, monkeypatch):
    (tmp_path / "ablations-1-percent.json").write_text(json.dumps([entry("masa", 0, 50.0)]))
    monkeypatch.setattr(EVIDENCE, "run_timed", lambda *args, **kwargs: pytest.fail(f"ran {args}"))
    runner(tmp_path).cell(EVIDENCE.Place(0), "ablations-1-percent", "masa", "seed 0", 40, 0)


def test_a_result_with_a_learning_rate_that_is_no_longer_the_best_is_replaced(tmp_path, monkeypatch):
    typed = []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "scores", lambda *arguments: {"test": 50.0 + len(typed)})
    for rate in ("0.006", "0.006", "0.003"):
        for seed in (0, 1):
            cell = ("peers-32", "deit", f"seed {seed}", 3, seed, f"--lr {rate}")
            runner(tmp_path).cell(EVIDENCE.Place(0), *cell)
    assert [command.split("--output ")[1] for command in typed] == [
        f"peers-32.deit.seed-{seed}.lr-{rate}" for rate in ("0.006", "0.003") for seed in (0, 1)
    ]
    assert [(e["seed"], e["test"]) for e in json.loads((tmp_path / "peers-32.json").read_text())] == [(0, 53), (1, 54)]


def test_weights_that_a_row_begins_with_are_trained_again_on_another_machine(tmp_path, monkeypatch):
    """Their score is known, but the folder of runs is not committed."""
    (tmp_path / "cifar10-weights.json").write_text(json.dumps([entry("rmt", 0, 60.0)]))
    typed = []
    monkeypatch.setattr(EVIDENCE.Runner, "prepare", lambda *arguments: None)
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "scores", lambda *arguments: {})
    added = []
    monkeypatch.setattr(EVIDENCE.Runner, "add", lambda self, name, entry: added.append(name))
    runner(tmp_path).run("camvid", [0], ["fpn"])
    assert len(typed) == 1
    runner(tmp_path).run("camvid", [0], ["fpn-weights"])
    assert typed[1].startswith("rmt train finetune") and typed[1].endswith("--output cifar10-weights.rmt.seed-0")
    (tmp_path / TABLES.WEIGHTS).parent.mkdir()
    (tmp_path / TABLES.WEIGHTS).touch()
    runner(tmp_path).run("camvid", [0], ["fpn-weights"])
    assert added == ["camvid"] * 3 and len(typed) == 4


@pytest.mark.parametrize("name", TABLES.TABLES)
def test_the_options_of_every_cell_are_taken(name, tmp_path, monkeypatch):
    """A mistyped option would end a measurement after hours."""
    table, typed = TABLES.TABLES[name], []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "scores", lambda *args: {"test": 0.0})
    for row in [row for row, network in table.rows.items() if network.model]:
        runner(tmp_path).cell(EVIDENCE.Place(0), name, row, "seed 0", table.epochs, 0)
    for command in typed:
        _, _, name, *words = command.split()
        base = RECIPES[name]()
        recipe = tyro.cli(type(base), default=base, args=spell_out_flags(type(base), words[: words.index("--output")]))
        assert not recipe.problems()
        assert recipe.model_args == "" or parse_model_args(recipe.model_args)
