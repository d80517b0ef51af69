"""`--show-batch` draws what the network is trained on, with the labels that its loss compares with."""

import numpy as np
import pytest
import torch
from helpers import detect_runs, runs, segment_runs
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import rmt
from rmt.data.detection.rle import decode
from rmt.data.transforms import Normalize
from rmt.tasks import resume
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.detect.module import DetectModule
from rmt.tasks.segment.module import SegmentModule
from rmt.training.show_batch import IMAGES


class Stopped(BaseException):
    """Ends a run after what the test is about."""


@pytest.fixture
def seen(monkeypatch):
    """Lets a run end after `seen["steps"]` steps, and records their batches, and the images in the pictures."""
    found = {"steps": 1, "batches": [], "network": [], "pictures": [], "captions": []}
    for kind in (ClassifyModule, DetectModule, SegmentModule):

        def draw_images(self, batch, count, original=kind.draw_images):
            drawn = original(self, batch, count)
            found["captions"] += [caption for _, caption in drawn]
            found["pictures"] += [picture for picture, _ in drawn]
            return drawn

        def batch_loss(self, batch, original=kind.batch_loss):
            if len(found["batches"]) == found["steps"]:
                raise Stopped
            found["batches"].append(batch)
            hook = self.model.register_forward_pre_hook(lambda _, args: found["network"].append(args[0]))
            loss = original(self, batch)
            hook.remove()
            return loss

        monkeypatch.setattr(kind, "draw_images", draw_images)
        monkeypatch.setattr(kind, "batch_loss", batch_loss)
    return found


@pytest.mark.parametrize("loader", ["pillow", "tensor"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_images_of_a_classifier_are_shown_mixed_as_the_network_sees_them(tmp_path, seen, loader, smoothing):
    recipe = runs.tiny_recipe(output=str(tmp_path / "run"), loader=loader, label_smoothing=smoothing, show_batch=True)
    seen["steps"] = 4
    with pytest.raises(Stopped):
        rmt.train(recipe)
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    images = torch.cat(seen["network"])
    assert len(images) == len(seen["pictures"]) == IMAGES
    for image, picture in zip(images, seen["pictures"], strict=True):
        # Random erasing fills with noise that may lie outside of what a picture can have.
        inside = normalize(torch.full((3, 1, 1), 255)), normalize(torch.zeros(3, 1, 1))
        shown = normalize(pil_to_tensor(picture))
        assert torch.allclose(image.clamp(max=inside[0]).clamp(min=inside[1]), shown, atol=0.5 / 255 / 0.224)
    labels = torch.cat([batch["label"] for batch in seen["batches"]]).tolist()
    partners = torch.cat([batch["label"].flip(0) for batch in seen["batches"]]).tolist()
    names = sorted(("red", "green", "blue"))
    for caption, *pair in zip(seen["captions"], labels, partners, strict=True):
        parts = [part.split() for part in caption.split(" + ")]
        assert {part[-1] for part in parts} <= {names[label] for label in pair}
        assert len(parts) == 1 or sum(float(share) for share, _ in parts) == pytest.approx(1, abs=0.011)
    assert any(" + " in caption for caption in seen["captions"])
    assert Image.open(tmp_path / "run" / "train_batch.png").width > 4 * 360


def test_it_changes_nothing_and_is_named(tmp_path, capsys):
    rmt.train(runs.tiny_recipe(output=str(tmp_path), show_batch=True))
    runs.assert_same_run(tmp_path, runs.finished_run())
    assert f"first training images, augmented: {tmp_path}/train_batch.png" in capsys.readouterr().out


def test_a_resumed_run_shows_the_images_that_come_next(tmp_path, seen):
    seen["steps"] = 7  # of six in an epoch
    with pytest.raises(Stopped):
        rmt.train(runs.tiny_recipe(output=str(tmp_path), show_batch=False))
    assert not seen["pictures"]
    seen.update(batches=[], steps=1, network=[])
    with pytest.raises(Stopped):
        resume(tmp_path, runs.tiny_recipe(output=str(tmp_path), show_batch=True))
    shown = np.stack([np.asarray(picture) for picture in seen["pictures"][:4]])
    drawn = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).undo(seen["network"][0])
    assert np.array_equal(drawn.permute(0, 2, 3, 1).numpy(), shown)


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_boxes_and_masks_are_those_of_the_loss(tmp_path, seen, monkeypatch, head):
    drawn = []
    monkeypatch.setattr("rmt.tasks.detect.module.draw_boxes", lambda *args, **_: drawn.append(args) or args[0])
    with pytest.raises(Stopped):
        rmt.train(detect_runs.tiny_recipe(output=str(tmp_path), head=head, masks=head == "mask_rcnn", show_batch=True))
    (batch,) = seen["batches"]
    for image, target, (photo, objects) in zip(batch["image"], batch["target"], drawn, strict=False):
        assert torch.equal(image, pil_to_tensor(photo))
        assert np.allclose(target["boxes"].numpy(), [item.box for item in objects])
        assert target["labels"].tolist() == [item.colour for item in objects]
        if head == "mask_rcnn":
            masks = [decode(item.mask, *image.shape[1:]) for item in objects]
            assert np.array_equal(masks, target["masks"].numpy())
    assert Image.open(tmp_path / "train_batch.png").width > 4 * 360


def test_class_maps_are_those_of_the_loss(tmp_path, seen, monkeypatch):
    drawn = []
    monkeypatch.setattr("rmt.tasks.segment.module.draw_segmentation", lambda *args: drawn.append(args) or args[0])
    with pytest.raises(Stopped):
        rmt.train(segment_runs.tiny(output=str(tmp_path), show_batch=True))
    (batch,) = seen["batches"]
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for image, mask, (photo, labels, _) in zip(batch["image"], batch["mask"], drawn, strict=False):
        assert torch.allclose(normalize(pil_to_tensor(photo)), image, atol=0.5 / 255 / 0.224)
        assert np.array_equal(mask.numpy(), labels)
    assert set(seen["captions"][0].split(", ")) <= {"background", "red", "blue"}
    assert Image.open(tmp_path / "train_batch.png").width > 4 * 360
