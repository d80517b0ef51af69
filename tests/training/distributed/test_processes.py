"""Training on several devices: two processes do what one does, lose nothing, and end at once when one dies."""

import csv
import functools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.kills import EACH_UPDATE, killed_at, run_until_killed
from helpers.pictures import make_folder
from helpers.runs import assert_same_run, rows, tiny_recipe, weights
from helpers.together import (
    recipe_file,
    rmt_command,
    run_together,
    start_together,
    together,
    train_together,
    wait_for,
    without_report,
)

import rmt
from rmt.training.checkpoints.io import read_state

# Nothing random that depends on the process: no drop path, no mixing, no augmentation.
PLAIN = dict(
    drop_path=0.0, mixup=0.0, cutmix=0.0, random_erasing=0.0, randaugment="", min_crop=1.0, flip=0.0, accumulate=1
)


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    without_report()


def losses(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["kind"] == "step"]


@pytest.mark.parametrize("norm", ["sync_batchnorm", pytest.param("freeze_batchnorm", marks=pytest.mark.slow)])
def test_two_processes_give_the_loss_curve_of_one(tmp_path, norm):
    data = make_folder(tmp_path / "photos", classes=3, train=67, val=3)
    options = PLAIN | {norm: True, "data": str(data), "epochs": 2, "warmup_epochs": 0.2}
    folder = train_together(tmp_path, batch_size=4, **options)
    alone = rmt.train(tiny_recipe(output=str(tmp_path / "alone"), batch_size=8, **options)).folder
    ours, theirs = losses(folder), losses(alone)
    assert len(ours) == len(theirs) == 50
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.8 * ours[0]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["effective_batch"] == 8
    assert metrics["machine"]["devices"] == 2


def test_two_processes_train_in_bf16_with_synchronised_batchnorm(tmp_path):
    folder = train_together(tmp_path, precision="bf16", sync_batchnorm=True, epochs=1, warmup_epochs=0.0)
    assert all(math.isfinite(loss) for loss in losses(folder))


@pytest.mark.slow
def test_without_either_each_device_has_statistics_of_its_own(tmp_path):
    options = PLAIN | {"epochs": 2, "lr": 2e-3}
    folder = train_together(tmp_path, batch_size=4, **options)
    alone = rmt.train(tiny_recipe(output=str(tmp_path / "alone"), batch_size=8, **options)).folder
    assert losses(folder) != pytest.approx(losses(alone), rel=1e-5)


def rates(folder: Path) -> dict[int, float]:
    """The learning rate of each update that a run has logged."""
    return {int(row["step"]): float(row["lr"]) for row in rows(folder) if row["kind"] == "step"}


@pytest.mark.parametrize("devices", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_goes_on_with_other_devices_at_its_place_in_the_schedule(tmp_path, monkeypatch, devices):
    """24 images in batches of 4 are 6 updates on one device, and 3 on two."""
    options = PLAIN | dict(batch_size=4, epochs=2, warmup_epochs=0.5, checkpoint_minutes=EACH_UPDATE)
    if devices == 2:
        monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
        with monkeypatch.context() as patch:
            killed_at(patch, "training_step", 9)
            run_until_killed(tiny_recipe(output=str(tmp_path / "run"), **options))
        place, said = (
            (8, 4),
            together(
                tmp_path, "--resume", str(tmp_path / "run"), "--devices", "2", "--workers", "0", "--accept-changes"
            )[0],
        )
    else:
        train_together(tmp_path, before=functools.partial(die, 1, 5), codes=(1, -9), **options)
        arguments = ("train", "--resume", str(tmp_path / "run"), "--devices", "1", "--accept-changes")
        place = (4, 8)
        (code,) = run_together(rmt_command, *arguments, size=1, output=tmp_path / "said", before=without_report)
        said = (tmp_path / "said" / "0.txt").read_text()
        assert code == 0, said
    assert f"update {place[0]} counts as {place[1]}, so that the learning rate stays on its schedule" in said
    each = 6 // devices
    assert read_state(tmp_path / "run" / "last.ckpt")["global_step"] == 2 * each
    whole = rmt.train(tiny_recipe(output=str(tmp_path / "whole"), **options | dict(batch_size=4 * devices))).folder
    expected, found = rates(whole), rates(tmp_path / "run")
    assert {n: rate for n, rate in found.items() if n > place[1]} == {
        n: pytest.approx(expected[n]) for n in range(place[1] + 1, 2 * each + 1)
    }


@pytest.mark.slow
def test_fsdp_trains_resumes_and_writes_what_ddp_does(tmp_path):
    """Sharded over two CPU processes: the loss curve of DDP, the same files, and an exact resume."""
    options = dict(strategy="fsdp", batch_size=2, sync_batchnorm=True)
    ddp = train_together(tmp_path, "ddp", **options | {"strategy": "ddp"})
    fsdp = train_together(tmp_path, "fsdp", **options)
    assert losses(fsdp) == pytest.approx(losses(ddp), rel=1e-5)
    ours, theirs = weights(fsdp), weights(ddp)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in theirs.items():
        if value.ndim > 1:  # a bias before BatchNorm has no gradient but rounding, which AdamW makes large
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4, msg=name)
    stopped = train_together(
        tmp_path,
        "stopped",
        checkpoint_minutes=EACH_UPDATE,
        before=functools.partial(die, 1, 9),
        codes=(1, -9),
        **options,
    )
    together(tmp_path, "--resume", str(stopped))
    assert_same_run(stopped, fsdp)


def record_what_is_shown(file: str) -> None:
    """Has each process write the samples of its training batches, and the rate's peak."""
    from rmt.training.module import TrainingModule

    without_report()
    step = TrainingModule.training_step

    def recording(self, batch, batch_idx):
        with open(f"{file}-{self.global_rank}", "a") as out:
            out.write(json.dumps([self.current_epoch, batch["index"].tolist()]) + "\n")
        return step(self, batch, batch_idx)

    TrainingModule.training_step = recording


def shown(file: Path) -> list[list[list[int]]]:
    """By epoch, every process's batches."""
    lines = [[json.loads(line) for line in Path(f"{file}-{rank}").read_text().splitlines()] for rank in range(2)]
    return [[batch for part in lines for epoch, batch in part if epoch == number] for number in range(2)]


@pytest.mark.parametrize("repeated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_an_epoch_shows(tmp_path, repeated):
    data = make_folder(tmp_path / "many", classes=2, train=139, val=7)  # 278 and 14, which neither 2 x 8 divides
    file = tmp_path / "shown"
    options = PLAIN | {"epochs": 2, "warmup_epochs": 0.0, "batch_size": 8, "lr_base_batch": 8}
    folder = train_together(
        tmp_path,
        data=str(data),
        repeated_augmentation=repeated,
        before=functools.partial(record_what_is_shown, str(file)),
        **options,
    )
    for batches in shown(file):
        assert {len(batch) for batch in batches} == {8}
        counts = [0] * 278
        for index in (index for batch in batches for index in batch):
            counts[index] += 1
        if repeated:  # 256 positions: three views each of 85 images, and one of another
            assert sorted(counts)[-86:] == [1] + [3] * 85
            assert sum(counts) == 256
        else:
            assert max(counts) == 1
            assert 278 - sum(counts) < 16
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["last"]["raw"]["val"]["images"] == 14
    # evaluated at the end by one process, and by all of them after the epoch
    assert metrics["last"]["raw"]["val"]["top1"] == float(
        [row for row in rows(folder) if row["kind"] == "epoch"][-1]["val_top1"]
    )
    assert metrics["peak_lr"] == pytest.approx(2e-3 * 2)


@pytest.mark.slow
def test_shards_that_do_not_divide_evenly_are_evaluated_once(tmp_path, monkeypatch):
    from rmt.data.sources.packing import pack

    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    data = make_folder(tmp_path / "photos", classes=3, train=8, val=3)
    pack(data, tmp_path / "shards", shard_images=5, workers=1)
    options = PLAIN | {"epochs": 1, "warmup_epochs": 0.0}
    folder = train_together(tmp_path, data=str(tmp_path / "shards"), **options)
    last = json.loads((folder / "metrics.json").read_text())["last"]["raw"]
    assert last["val"]["images"] == 9
    evaluated = [row for row in rows(folder) if row["kind"] == "epoch"][-1]
    row = {name: float(evaluated[f"val_{name}"]) for name in ("loss", "top1", "top5")}
    assert {name: last["val"][name] for name in row} == pytest.approx(row, rel=1e-5)


def die(rank: int, call: int, method: str = "training_step") -> None:
    """Lets a process's n-th call of a method of its module be its last."""
    from rmt.tasks.classify.module import ClassifyModule

    without_report()
    original, calls = getattr(ClassifyModule, method), []

    def fatal(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == call and self.global_rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    setattr(ClassifyModule, method, fatal)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    # one image of each global batch of 4 per process is left over: 24 = 3 updates of 2 x 2 x 2
    return train_together(tmp_path_factory.mktemp("undisturbed"), batch_size=2)


@pytest.mark.parametrize(
    ("rank", "call", "method"),
    [
        (1, 9, "training_step"),
        pytest.param(0, 9, "training_step", marks=pytest.mark.slow),
        pytest.param(1, 2, "validation_step", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_is_named_and_the_run_resumes_exactly(tmp_path, undisturbed, rank, call, method):
    codes = (1, -9) if rank == 1 else (-9, 1)
    folder = train_together(
        tmp_path,
        batch_size=2,
        checkpoint_minutes=EACH_UPDATE,
        before=functools.partial(die, rank, call, method),
        codes=codes,
    )
    said = [(tmp_path / "said" / f"{r}.txt").read_text() for r in range(2)]
    complaints = [line for text in said for line in text.splitlines() if line.startswith("rmt:")]
    (line,) = complaints
    assert re.match(rf"rmt: rank {rank}( \(pid \d+ on \S+\))? died without a message", line)
    assert read_state(folder / "last.ckpt")["rmt"]["recipe"]["devices"] == 2
    together(tmp_path, "--resume", str(folder))
    assert_same_run(folder, undisturbed)


def lose_a_worker() -> None:
    """A reading process of rank 1 dies."""
    from rmt.data.sources.folders import FolderSet

    without_report()
    load = FolderSet.load

    def fatal(self, index):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, index)

    FolderSet.load = fatal


def test_a_dead_data_worker_is_named_with_its_process(tmp_path):
    began = time.monotonic()
    train_together(tmp_path, workers=2, before=lose_a_worker, codes=(1, 1))
    assert time.monotonic() - began < 60
    said = [(tmp_path / "said" / f"{rank}.txt").read_text() for rank in range(2)]
    (line,) = [line for text in said for line in text.splitlines() if line.startswith("rmt:")]
    assert re.match(r"rmt: rank 1 \(pid \d+ on \S+\): data worker .*\d of 2 \(pid \d+\) by SIGKILL.* died", line)


def stop_after_three_steps(rank: int) -> None:
    from rmt.tasks.classify.module import ClassifyModule

    without_report()
    original, calls = ClassifyModule.training_step, []

    def signalled(self, batch, batch_idx):
        calls.append(0)
        if len(calls) == 3 and self.global_rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    ClassifyModule.training_step = signalled


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_either_process_saves_and_stops_both(tmp_path, undisturbed, rank):
    folder = train_together(
        tmp_path, batch_size=2, before=functools.partial(stop_after_three_steps, rank), codes=(143, 143)
    )
    said = (tmp_path / "said" / "0.txt").read_text()
    assert "stopped after update 2, checkpoint saved" in said
    assert "rmt:" not in (tmp_path / "said" / "1.txt").read_text()
    together(tmp_path, "--resume", str(folder))
    assert_same_run(folder, undisturbed)


def test_a_run_does_not_go_on_with_another_number_of_processes_unasked(tmp_path, undisturbed):
    from rmt.tasks import resume

    # a complete run, so that only what was asked for differs
    with pytest.raises(rmt.RMTError, match="devices 2 -> 1"):
        resume(undisturbed, tiny_recipe(output=str(undisturbed), batch_size=2, nodes=1))


def test_a_mistake_is_reported_once(tmp_path):
    recipe = recipe_file(tmp_path / "recipe.py", tiny_recipe(data=str(tmp_path / "nowhere"), devices="auto"))
    said = together(tmp_path, recipe, codes=(1, 1))
    assert "".join(said).count("nowhere") == 1


@pytest.mark.slow
def test_both_killed_at_random_moments(tmp_path, undisturbed):
    draw = random.Random(2)
    folder = tmp_path / "run"
    recipe = recipe_file(
        tmp_path / "recipe.py",
        tiny_recipe(output=str(folder), batch_size=2, devices="auto", checkpoint_minutes=EACH_UPDATE),
    )
    for _ in range(10):
        args = ("--resume", str(folder)) if (folder / "recipe.json").exists() else (recipe,)
        processes = start_together(rmt_command, "train", *args, output=tmp_path / "said", before=without_report)
        time.sleep(draw.uniform(0.5, 6.0))
        for process in processes:
            process.kill()
        wait_for(processes)
    together(tmp_path, *(("--resume", str(folder)) if (folder / "recipe.json").exists() else (recipe,)))
    assert_same_run(folder, undisturbed)
    assert rows(folder) == rows(undisturbed)


def token_labelling_sharded() -> None:
    """A step by a method of the network other than `forward`, with FSDP and without."""
    from helpers.networks import pico
    from torch.distributed.device_mesh import init_device_mesh

    from rmt.training.distributed.fsdp import apply_fsdp, full_state_dict
    from rmt.training.distributed.launch import process_group
    from rmt.training.machine import Machine

    def step(model):
        class_logits, token_logits = model.forward_token_labelling(torch.ones(2, 3, 32, 32))
        (class_logits.square().mean() + token_logits.square().mean()).backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.1 * weight.grad
        return full_state_dict(model)

    with process_group(Machine.detect(tiny_recipe(devices="auto"))):
        model = pico(aux_head=True).eval()
        expected = step(pico(aux_head=True).eval())
        apply_fsdp(model, init_device_mesh("cpu", (2,)))
        for name, value in step(model).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_a_method_of_a_sharded_network_other_than_forward(tmp_path):
    codes = run_together(token_labelling_sharded, output=tmp_path)
    assert codes == [0, 0], (tmp_path / "0.txt").read_text()


@pytest.mark.slow
def test_started_plainly_a_script_s_rest_runs_once(tmp_path):
    """One command starts the other process with its own command line; behind the training there is one again."""
    recipe = tiny_recipe(output=str(tmp_path / "run"), devices=2, batch_size=2, epochs=1, warmup_epochs=0.0)
    recipe_file(tmp_path / "recipe.py", recipe)
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(tmp_path)!r}]\n"
        "import torch; torch.set_num_threads(1)\n"
        "import rmt, recipe; from helpers import runs, together\n"
        "together.without_report()\n"
        "result = rmt.train(recipe.mine)\n"
        "print('behind the training', result.metrics['machine']['devices'])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("behind the training 2") == 1
    assert done.stdout.count("effective batch 2 devices x 2 x 2 accumulated = 8") == 1
