"""Every field of a recipe has an effect."""

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.resolved import resolved
from helpers.runs import finished_run, photos, tiny_recipe

import rmt
from rmt.data.randomness import seed_process
from rmt.device import choose_device
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.build import load_initial_weights
from rmt.tasks.classify.data import ClassifyData, class_weights
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.network import build_network
from rmt.training.schedules import CosineSchedule
from rmt.training.trainer import build_trainer

#: field -> a value that must make a difference to what `observe` sees
CHANGES: dict[str, Any] = {
    "model": "rmt_tiny",
    "model_args": "cpe=false",
    "weights": "finished",
    "image_size": 48,
    "epochs": 5,
    "batch_size": 6,
    "accumulate": 3,
    "lr": 1e-3,
    "lr_base_batch": 64,
    "min_lr": 1e-4,
    "warmup_epochs": 2.0,
    "epoch_repeats": 2.0,
    "warmup_lr": 1e-5,
    "cooldown_epochs": 1,
    "optimizer": "muon",
    "weight_decay": 0.1,
    "layer_decay": 0.5,
    "clip_grad": 1.0,
    "drop_path": 0.5,
    "ema_decay": 0.5,
    "loader": "tensor",
    "ema_warmup": True,
    "precision": "bf16",
    "seed": 1,
    "selection": 6.0,
    "pad_to": 48,
    "min_crop": 0.9,
    "crop_padding": 8,
    "flip": 0.0,
    "randaugment": "",
    "random_erasing": 1.0,
    "interpolation": "bilinear",
    "crop_pct": 0.5,
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_switch": 1.0,
    "label_smoothing": 0.3,
    "class_weights": True,
    "metric": "macro_recall",
}
#: field -> where its effect is tested instead
ELSEWHERE = {
    "frozen_stages": "training/test_layers.py",
    "name": "training/test_run_folder.py",
    "output": "training/test_run_folder.py",
    "data": "training/test_train.py",
    "stream": "training/test_streaming.py",
    "stream_buffer": "training/test_streaming.py",
    "early_stopping": "training/test_train.py",
    "best_tolerance": "training/test_train.py",
    "minutes": "training/test_plan.py",
    "restart_update": "training/test_extend.py",
    "restart_lr": "training/test_extend.py",
    "checkpoint_minutes": "training/test_resume.py",
    "workers": "below",
    "effective_batch": "training/test_batch.py",
    "devices": "training/distributed/test_processes.py",
    "nodes": "training/distributed/test_launch.py",
    "strategy": "training/distributed/test_processes.py",
    "on_nan": "training/test_nonfinite.py",
    "grad_checkpointing": "training/test_network.py",
    "compile": "training/test_network.py",
    "profile": "training/test_profile.py",
    "show_batch": "training/test_show_batch.py",
    "sync_batchnorm": "training/distributed/test_processes.py",
    "freeze_batchnorm": "training/test_network.py",
    "device": "below",
    "balanced_sampling": "tasks/classify/test_unbalanced.py",
    "holdout": "below",
    "repeated_augmentation": "below",
    "token_labels": "tasks/classify/token_labelling/test_module.py",
    "token_loss": "tasks/classify/token_labelling/test_module.py",
    "mix_token": "tasks/classify/token_labelling/test_module.py",
    "ground_truth": "tasks/classify/token_labelling/test_module.py",
    "ground_truth_mismatch": "tasks/classify/token_labelling/test_module.py",
    "swap_map_axes": "tasks/classify/token_labelling/test_module.py",
}


def observe(recipe: ClassifyRecipe) -> dict[str, Any]:
    """Everything a run's outcome hangs on, as plain values: data, first batch, loss, optimiser, schedule, trainer."""
    recipe, data = resolved(recipe)
    seed_process(recipe.seed)
    network = build_network(recipe)
    network.reset_classifier(len(data.classes))
    if recipe.weights:
        load_initial_weights(network, recipe.weights, data.classes, log=lambda line: None)
    weights = class_weights(np.array([0, 0, 0, 1, 2]), 3) if recipe.class_weights else None
    task = ClassifyModule(network, recipe, data, class_weights=weights)
    trainer = build_trainer(
        recipe, epochs=task.epochs, batches_per_epoch=task.batches_per_epoch, callbacks=[], folder=None
    )
    task.trainer = trainer
    optimizer = task.configure_optimizers()["optimizer"]
    schedule = CosineSchedule(optimizer, recipe, task.updates_per_epoch)
    batch = next(iter(data.train_loader(recipe)))
    seen = {
        "train": len(data.train),
        "batches": task.batches_per_epoch,
        "image": batch["image"],
        "label": batch["label"],
        "test image": next(iter(data.eval_loader(recipe, data.test)))["image"],
        "preprocessing": task.preprocessing,
        "parameters": [p.shape for p in network.parameters()],
        "weight": network.stem[0].weight.detach().clone(),
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "trainer": (trainer.max_epochs, trainer.accumulate_grad_batches, trainer.gradient_clip_val, trainer.precision),
        "ema": None if task.ema is None else [task.ema.get_decay(step) for step in (None, 2, 9)],
        "best by": task.metric_columns,
    }
    seen["rates"] = []
    for step in range(10):
        schedule.step_update(step)
        seen["rates"].append([g["lr"] for g in optimizer.param_groups])
    task.train()
    losses = []
    for step in range(6):  # enough draws for each kind of mixing to come up
        seed_process(recipe.seed, step)
        losses.append(float(task.loss(batch["image"][:4], batch["label"][:4]).detach()))
    seen["losses"] = losses
    return seen


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return a == b


@pytest.fixture(scope="module")
def base():
    return observe(tiny_recipe())


def test_observing_twice_sees_the_same(base):
    again = observe(tiny_recipe())
    assert [key for key in base if not same(base[key], again[key])] == []


def test_every_field_is_listed():
    assert set(CHANGES) | set(ELSEWHERE) == {field.name for field in fields(ClassifyRecipe)}
    assert not set(CHANGES) & set(ELSEWHERE)


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_has_an_effect(field, base, tmp_path):
    value = CHANGES[field]
    if field == "weights":
        network = rmt.create_model("rmt_test", num_classes=3)
        value = str(tmp_path / "start.safetensors")
        rmt.save_checkpoint(network, value, classes=("blue", "green", "red"))
    changed = observe(replace(tiny_recipe(), **{field: value}))
    assert [key for key in base if not same(base[key], changed[key])]


def test_holdout_splits_a_folder_without_a_validation_part():
    whole = tiny_recipe(data=photos() + "/train", holdout=0.25)
    few, many = (ClassifyData.open(replace(whole, holdout=part)) for part in (0.25, 0.5))
    assert (len(few.train), len(few.test)) == (18, 6)
    assert (len(many.train), len(many.test)) == (12, 12)


def test_repeated_augmentation_shows_each_image_three_times(tmp_path):
    from helpers.pictures import make_folder

    data = make_folder(tmp_path / "many", classes=2, train=130, val=1)
    recipe = tiny_recipe(data=str(data), repeated_augmentation=True, batch_size=64, accumulate=1)
    loader = ClassifyData.open(recipe).train_loader(recipe)
    shown = torch.cat([batch["index"] for batch in loader])
    assert len(shown) == 256
    assert shown.bincount().max() == 3


def test_workers_are_processes():
    recipe = tiny_recipe(workers=2)
    loader = ClassifyData.open(recipe).train_loader(recipe)
    assert loader._pool.num_workers == 2
    loader.close()


def test_device_chooses_where_to_compute():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(rmt.RMTError, match="--device cuda: .* no CUDA device"):
            choose_device("cuda")
    with pytest.raises(rmt.RMTError, match="none of auto"):
        choose_device("tpu")


def test_open_fields_are_resolved_by_the_weights():
    recipe, _ = resolved(tiny_recipe(model="auto", image_size=0, weights=str(finished_run())))
    assert (recipe.model, recipe.image_size) == ("rmt_test", 32)
    recipe, _ = resolved(tiny_recipe(model="auto", image_size=0, device="cpu"))
    assert (recipe.model, recipe.image_size) == ("rmt_pico", 96)


def test_class_weights_make_up_for_frequency():
    weights = class_weights(np.array([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([4 / 9, 4 / 3, 4 / 3])
    assert math.isclose(float(class_weights(np.array([0, 1, 2]), 3).sum()), 3)
