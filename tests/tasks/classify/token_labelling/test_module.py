"""Training the `_tl` networks on label maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.kills import EACH_UPDATE, killed_at, run_until_killed
from helpers.pictures import make_folder
from helpers.runs import assert_same_run, tiny_recipe

import rmt
from rmt.data.sources.folders import FolderSet
from rmt.data.token_labels.label_maps import INDEX, LabelMapSpec, fingerprint, write_map_file
from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe
from rmt.tasks import resume
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.token_labelling.module import TokenLabelModule
from rmt.tasks.classify.token_labelling.targets import MixTokenBox, pool_maps, smooth
from rmt.training.optimizers import build_optimizer
from rmt.training.schedules import CosineSchedule


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 64 pixels of three colours, and maps that give each image's left half its class, the right another."""
    root = make_folder(tmp_path_factory.mktemp("data"), classes=3, train=8, val=4, size=64)
    images = FolderSet(root / "train")
    about = LabelMapSpec(
        teacher="by hand",
        weights="none",
        image_size=(64, 64),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        num_classes=3,
        grid=(4, 4),
        top_k=2,
        images=len(images),
        fingerprint=fingerprint(images),
        shard_images=100,
    )
    arrays = about.empty(0)
    arrays["sizes"][:] = 64
    arrays["scores"][:] = [6.0, 2.0]
    label = images.labels[:, None, None].astype(np.int16)
    arrays["classes"][:, :, :2] = np.stack(np.broadcast_arrays(label, (label + 1) % 3), -1)
    arrays["classes"][:, :, 2:] = np.stack(np.broadcast_arrays((label + 2) % 3, label), -1)
    (root / "maps").mkdir()
    write_map_file(root / "maps" / about.file_name(0), arrays)
    (root / "maps" / INDEX).write_text(about.as_json())
    return root


@pytest.fixture
def recipe(data) -> ClassifyRecipe:
    """Images of 128 pixels have a grid of 4×4 cells; MixToken's rectangle is empty on smaller grids."""
    return tiny_recipe(
        data=str(data), model="rmt_test_tl", image_size=128, token_labels=str(data / "maps"), mixup=0.0, cutmix=0.0
    )


def task_of(recipe: ClassifyRecipe) -> tuple[TokenLabelModule, dict]:
    torch.manual_seed(0)
    model = rmt.create_model(recipe.model, num_classes=3)
    for name, weight in model.named_parameters():
        if name in ("head.fc.weight", "aux_head.weight"):  # logits that differ, or no change of the targets shows
            torch.nn.init.normal_(weight)
    opened = ClassifyData.open(recipe)
    return TokenLabelModule(model, recipe, opened), next(iter(opened.train_loader(recipe)))


def test_a_run_trains_both_heads_and_leaves_a_model(recipe, tmp_path):
    run = rmt.train(replace(recipe, output=str(tmp_path), epochs=1, warmup_epochs=0.0, ema_decay=0.0)).folder
    trained = rmt.load(run, device="cpu").model
    assert trained.aux_head.bias.abs().min() > 0 and trained.head.fc.bias.abs().min() > 0  # they began as 0


def test_the_loss_by_hand(recipe):
    """Pool, smooth, mix the stem, swap back, two cross-entropies: LV-ViT, step by step."""
    task, batch = task_of(replace(recipe, drop_path=0.0))
    task.eval()  # BatchNorm and nothing else: the same answer twice
    torch.manual_seed(5)
    loss = task.batch_loss(batch)

    torch.manual_seed(5)
    cut = MixTokenBox.sample((4, 4))
    tokens, whole = pool_maps(batch["map_scores"], batch["map_classes"], batch["box"], 3, (4, 4))
    tokens, whole = (0.9 + 0.1 / 3) * tokens + 0.1 / 3, (0.9 + 0.1 / 3) * whole + 0.1 / 3
    stem = task.model.stem(batch["image"])
    mixed = stem.clone()
    for b in range(4):
        here = slice(8 * cut.top, 8 * cut.bottom), slice(8 * cut.left, 8 * cut.right)
        mixed[b, :, *here] = stem[3 - b, :, *here]
    features = task.model.stages(mixed)
    class_logits = task.model.head(features)
    token_logits = task.model.aux_head(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    back = token_logits.clone()
    for b in range(4):
        here = slice(cut.top, cut.bottom), slice(cut.left, cut.right)
        back[b, :, *here] = token_logits[3 - b, :, *here]
    target = cut.kept * whole + (1 - cut.kept) * whole.flip(0)
    expected = -(target * class_logits.log_softmax(1)).sum(1).mean()
    expected += 0.5 * -(tokens * back.log_softmax(1)).sum(1).mean()
    assert 0 < cut.kept < 1
    torch.testing.assert_close(loss, expected)


def test_label_maps_reach_the_batch_with_the_image_s_own_crop(recipe):
    _, batch = task_of(replace(recipe, randaugment=""))
    assert batch["map_scores"].shape == batch["map_classes"].shape == (4, 4, 4, 2)
    assert batch["map_scores"].dtype == torch.float16
    assert batch["box"].shape == (4, 4)
    flips = 0
    for label, classes in zip(batch["label"].tolist(), batch["map_classes"], strict=True):
        flips += int(classes[0, 0, 0]) != label
        assert int(classes[0, 0, 0]) == label or int(classes[0, 3, 0]) == label
    assert 0 < flips < 4


@pytest.mark.parametrize(
    "changes",
    [
        dict(token_loss=0.0),
        dict(mix_token=0.0),
        dict(mix_token=9.0),
        dict(ground_truth=1.0),
        dict(ground_truth=0.5, ground_truth_mismatch=1.0),
        dict(swap_map_axes=True),
    ],
    ids=str,
)
def test_each_field_changes_the_loss(recipe, changes):
    losses = []
    base = replace(recipe, ground_truth=0.5) if "ground_truth_mismatch" in changes else recipe
    for chosen in (base, replace(base, **changes)):
        task, batch = task_of(replace(chosen, drop_path=0.0))
        task.train()  # by the batch's statistics, which tell these images apart
        torch.manual_seed(1)
        losses.append(sum(float(task.batch_loss(batch).detach()) for _ in range(20)))
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_maps_are_repeated_by_any_number_of_workers_and_after_resuming(recipe):
    """Every draw of flip, RandAugment and crop depends on seed, epoch and position alone."""
    data = ClassifyData.open(recipe)
    plain, forked, resumed = (data.train_loader(recipe, workers=workers) for workers in (0, 2, 0))
    for loader in (plain, forked):
        loader.set_epoch(3)
    batches = list(plain)
    resumed.load_state_dict({"epoch": 3, "batches": 2})
    try:
        for again in (list(forked), [*batches[:2], *resumed]):
            assert len(again) == len(batches) == 6
            for first, second in zip(batches, again, strict=True):
                for name in ("image", "map_scores", "map_classes", "box"):
                    assert torch.equal(first[name], second[name])
    finally:
        forked.close()


def test_ground_truth_alone_is_the_usual_loss(recipe):
    """Beside the smoothing, which is LV-ViT's."""
    truth = dict(ground_truth=1.0, ground_truth_mismatch=1.0)
    chosen = replace(recipe, **truth, token_loss=0.0, mix_token=0.0, drop_path=0.0)
    task, batch = task_of(chosen)
    task.eval()
    logits = task.model.forward_token_labelling(batch["image"])[0]
    expected = F.cross_entropy(logits, smooth(F.one_hot(batch["label"], 3).float(), chosen.label_smoothing))
    torch.testing.assert_close(task.batch_loss(batch), expected)


def test_cooldown_stays_at_the_minimum(recipe):
    cooled = replace(recipe, epochs=13, cooldown_epochs=3, warmup_epochs=0.0, lr=1e-3, min_lr=1e-5)
    model = rmt.create_model("rmt_test", num_classes=3)

    def rates(chosen, steps):
        optimizer = build_optimizer(model, chosen, chosen.lr)
        schedule = CosineSchedule(optimizer, chosen, 4)
        seen = []
        for step in range(steps):
            schedule.step_update(step)
            seen.append(max(group["lr"] for group in optimizer.param_groups))
        return seen

    assert rates(cooled, 52) == pytest.approx(rates(replace(cooled, epochs=10, cooldown_epochs=0), 40) + 12 * [1e-5])


def test_a_killed_run_ends_as_if_nothing_had_happened(recipe, tmp_path, monkeypatch):
    recipe = replace(recipe, checkpoint_minutes=EACH_UPDATE)
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    whole = rmt.train(replace(recipe, output=str(tmp_path / "whole"))).folder
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 9)  # in the second epoch
        run_until_killed(replace(recipe, output=str(tmp_path / "killed")))
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", whole)


def test_what_cannot_go_together_is_refused(recipe, tmp_path):
    for name, value in dict(mixup=0.8, cutmix=1.0, pad_to=32, crop_padding=4, class_weights=True).items():
        (problem,) = replace(recipe, **{name: value}).problems()
        assert f"--{name.replace('_', '-')} must be off with --token-labels" in problem
    with pytest.raises(RMTError, match="rmt_test is not: take rmt_small_tl"):
        task_of(replace(recipe, model="rmt_test"))
    with pytest.raises(RMTError, match="no label maps there"):
        rmt.train(replace(recipe, token_labels=str(tmp_path), output=str(tmp_path / "run")))
    assert replace(recipe, cooldown_epochs=3).problems()
    assert replace(recipe, ground_truth=1.5).problems()
    assert "augmix" in replace(recipe, randaugment="augmix-m5").problems()[0]
    assert "--ground-truth-mismatch has no effect" in replace(recipe, ground_truth_mismatch=0.3).problems()[0]
    assert "--swap-map-axes has no effect" in replace(recipe, token_labels="", swap_map_axes=True).problems()[0]
