"""The ImageNet recipes have the numbers of the paper's App. B, and each builds and takes a step."""

from dataclasses import replace

import pytest
import torch
from helpers.pictures import make_folder

from rmt.model import MAX_DROP_PATH, create_model
from rmt.recipes import IMAGENET
from rmt.tasks.classify.build import resolve_schedule
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.module import ClassifyModule, _build_mix
from rmt.training.batch import peak_lr, resolve_ema_decay
from rmt.training.network import resolve_network
from rmt.training.optimizers import build_optimizer
from rmt.training.schedules import CosineSchedule

#: for every row of the table
PAPER = dict(
    image_size=224,
    epochs=300,
    cooldown_epochs=0,
    lr=1e-3,
    lr_base_batch=1024,
    min_lr=1e-5,
    warmup_epochs=5,
    warmup_lr=1e-6,
    weight_decay=0.05,
    layer_decay=1.0,
    clip_grad=0.0,
    label_smoothing=0.1,
    randaugment="rand-m9-mstd0.5-inc1",
    mixup=0.8,
    cutmix=1.0,
    mix_switch=0.5,
    random_erasing=0.25,
    repeated_augmentation=True,
    sync_batchnorm=True,
    devices="auto",
    interpolation="bicubic",
    crop_pct=0.875,
    pad_to=0,
    min_crop=0.08,
    flip=0.5,
    class_weights=False,
    selection=0.0,
    early_stopping=0,
    precision="auto",
    token_labels="",
)
#: … and for the token-labelled ones
TOKENS = PAPER | dict(
    epochs=310,
    cooldown_epochs=10,
    mixup=0.0,
    cutmix=0.0,
    interpolation="random",
    token_labels="token-labels",
    token_loss=0.5,
    mix_token=1.0,
    ground_truth=0.0,
)
#: name -> (network, drop path, published top-1)
ROWS = {
    "imagenet-tiny": ("rmt_tiny", 0.1, "82.4"),
    "imagenet-small": ("rmt_small", 0.15, "84.1"),
    "imagenet-base": ("rmt_base", 0.4, "85.0"),
    "imagenet-large": ("rmt_large", 0.5, "85.5"),
    "imagenet-deit-small": ("rmt_deit_small", 0.1, "81.7"),
    "imagenet-swin-tiny": ("rmt_swin_tiny", 0.2, "83.6"),
    "imagenet-swin-small": ("rmt_swin_small", 0.3, "84.5"),
    "imagenet-small-tl": ("rmt_small_tl", 0.15, "84.8"),
    "imagenet-base-tl": ("rmt_base_tl", 0.4, "85.6"),
    "imagenet-large-tl": ("rmt_large_tl", 0.5, "86.1"),
}


def test_every_row_of_the_table_has_a_recipe():
    assert list(IMAGENET) == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_are_the_paper_s(name):
    recipe = resolve_schedule(IMAGENET[name]())
    model, drop_path, published = ROWS[name]
    expected = TOKENS if name.endswith("-tl") else PAPER
    assert {key: getattr(recipe, key) for key in expected} == expected
    assert (recipe.model, recipe.drop_path, recipe.ema_decay) == (model, "auto", "auto")
    assert resolve_network(recipe).drop_path == drop_path == MAX_DROP_PATH[model]
    text = " ".join(IMAGENET[name].__doc__.split())
    assert published in text and "last" in text and "GPU-hours" in text
    assert f"Command: rmt train {name} --data IMAGENET" in text
    assert 8 * recipe.batch_size * recipe.accumulate == 1024
    assert peak_lr(replace(recipe, devices=8)) == pytest.approx(1e-3)
    assert peak_lr(replace(recipe, devices=16)) == pytest.approx(2e-3)
    assert resolve_ema_decay(replace(recipe, devices=8)).ema_decay == pytest.approx(0.99992, abs=1e-8)


@pytest.mark.parametrize("name", ROWS)
def test_each_builds_with_its_optimiser_and_schedule(name):
    recipe = resolve_schedule(resolve_network(IMAGENET[name]()))
    network = create_model(recipe.model, drop_path_rate=recipe.drop_path, device="meta")
    optimizer = build_optimizer(network, recipe, peak_lr(replace(recipe, devices=8)))
    schedule = CosineSchedule(optimizer, recipe, 1251)  # ⌊1,281,167 / 256⌋·256 images in batches of 1,024
    rates = {}
    for epoch in (0, 5, 150, 299, 300, 305, 309):
        schedule.step_update(epoch * 1251)
        rates[epoch] = {group["lr"] for group in optimizer.param_groups}
    assert rates[0] == {1e-6}
    assert max(rates[5]) == pytest.approx(1e-3, rel=1e-3)
    assert max(rates[150]) == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-6)
    assert max(rates[299]) == pytest.approx(1e-5, rel=0.01)
    assert rates[300] == rates[305] == rates[309] == {1e-5}


def test_the_plain_rows_take_a_step_on_tiny_data(tmp_path):
    """One for all: they differ in the network alone."""
    data = make_folder(tmp_path, classes=2, train=130, val=1)
    recipe = replace(IMAGENET["imagenet-tiny"](), data=str(data), model="rmt_pico", batch_size=4, devices=1, workers=0)
    recipe = resolve_ema_decay(resolve_network(replace(recipe, image_size=64)))
    torch.manual_seed(0)
    network = create_model(recipe.model, num_classes=2, drop_path_rate=recipe.drop_path)
    opened = ClassifyData.open(recipe)
    task = ClassifyModule(network, recipe, opened)
    optimizer = build_optimizer(network, recipe, task.lr)
    loss = task.batch_loss(next(iter(opened.train_loader(recipe))))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_mixup_and_cutmix_are_parameters_of_the_beta_distribution():
    """The paper's text calls 0.8 and 1.0 probabilities; with DeiT's reading every batch is mixed, half by each."""
    mix = _build_mix(IMAGENET["imagenet-tiny"](), 1000)
    assert (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob) == (0.8, 1.0, 1.0, 0.5)
    drawn = [mix._params_per_batch() for _ in range(200)]
    cut = sum(use_cutmix for _, use_cutmix in drawn)
    assert 60 < cut < 140 and all(weight != 1.0 for weight, _ in drawn)
