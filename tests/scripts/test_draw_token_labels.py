"""The picture of docs/training.md can be drawn, with a teacher of random weights."""

import timm
import torch
from helpers.scripts_under_test import script
from PIL import Image

from rmt.tasks.classify.token_labelling.teacher import Teacher


def test_a_row_is_drawn(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("resnet10t").eval()
    teacher = Teacher(network, "resnet10t", "random", (), (96, 96), (0.5,) * 3, (0.5,) * 3, "bicubic")
    photo = Image.effect_noise((120, 100), 60).convert("RGB")
    script("draw_token_labels").draw(teacher, photo, [6], None, tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.size == (960, 288)
