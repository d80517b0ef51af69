"""Small baselines from scratch, trained for a given number of CPU seconds: the right column of `first_hour.py`, rows of
`evidence.py`.

    python benchmarks/baselines.py resnet9 --data cifar10-10k --cpu-seconds 175 --output result.json
    python benchmarks/baselines.py unet    --data camvid      --cpu-seconds 880 --output result.json
    python benchmarks/baselines.py ssdlite --data bccd        --cpu-seconds 290 --output result.json
    python benchmarks/baselines.py smp     --data camvid      --cpu-seconds 400 --output result.json

The budget is the CPU time of this whole process, imports and decoding included, up to the end of training; the
evaluation on the test part comes after it. Its use so far drives the learning rate, so a busy machine changes nothing.
Networks and training need torch and torchvision alone; boxes are read, and AP50 is computed, by this package.

- `resnet9`: ResNet-9 of 0.4 M parameters. Padded random crop (4 pixels), flip; AdamW, batch 128, one cycle up to 5e-3,
  weight decay 0.05, label smoothing 0.1.
- `unet`: a U-Net of 5 levels, 1.9 M parameters, at half the resolution (240×180). Crops of 160, flip; AdamW, batch 8,
  one cycle up to 3e-3, weight decay 0.05; cross-entropy weighted by the root of median frequency / frequency.
- `ssdlite`: torchvision's lightest detector, SSDLite320 on MobileNetV3-Large, no pretrained weights. Flip, and crops as
  SSD's reference makes them; AdamW, batch 8, one cycle up to 1e-3, weight decay 1e-4, gradients clipped to norm 5.
- `smp`: the FPN of segmentation_models_pytorch on MobileNetV3-Small, trained like `unet`.
- `faster_rcnn`: torchvision's Faster R-CNN on ResNet-18, no pretrained weights, short side 192, anchors from 8 pixels
  up, with the widths and numbers of proposals of the RMT rows of `evidence.py`: with torchvision's own (256 channels,
  1,024 hidden units, 1,000 proposals) an image takes 1.4 s. Trained like `ssdlite`, without the crops.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from rmt.data.split_names import Split

CLASSES_CAMVID, VOID = 11, 11


class Budget:
    """The share of the CPU seconds that this process has used, and batches of indices until it is 1."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def used(self) -> float:
        return time.process_time() / self.seconds

    def batches(self, images: int, size: int) -> Iterator[Tensor]:
        while True:
            for indices in torch.randperm(images).split(size):
                if self.used >= 1:
                    return
                if len(indices) == size:
                    yield indices

    def one_cycle(self, optimizer: torch.optim.Optimizer, peak: float, warmup: float = 0.15) -> None:
        """Sets the learning rate: linearly up to `peak` in the first part of the time, linearly down to 0 after it."""
        used = self.used
        rate = peak * min(used / warmup, max(1 - used, 0) / (1 - warmup))
        for group in optimizer.param_groups:
            group["lr"] = rate


def normalise(images: Tensor) -> Tensor:
    """uint8 (…, 3, height, width) -> float32 by ImageNet's mean and standard deviation."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (images.float() / 255 - mean) / std


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True))


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def resnet9(classes: int = 10) -> nn.Sequential:
    return nn.Sequential(
        *(conv(3, 16), conv(16, 32), nn.MaxPool2d(2), Residual(conv(32, 32), conv(32, 32))),
        *(conv(32, 64), nn.MaxPool2d(2), conv(64, 128), nn.MaxPool2d(2), Residual(conv(128, 128), conv(128, 128))),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(128, classes)),
    )


class UNet(nn.Module):
    def __init__(self, classes: int, widths: tuple[int, ...] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(nn.Sequential(conv(i, o), conv(o, o)) for i, o in pairs)
        self.up = nn.ModuleList(nn.Sequential(conv(i + o, i), conv(i, i)) for i, o in pairs[:0:-1])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, height, width) -> logits (B, classes, height, width), for sides that 16 divides."""
        maps = []
        for level in self.down:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        for level, skip in zip(self.up, maps[-2::-1], strict=True):
            x = level(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear"), skip], 1))
        return self.head(x)


class Result(NamedTuple):
    score: float  # percent
    images_seen: int
    parameters: int


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def train_resnet9(data: Path, budget: Budget, split: Split) -> Result:
    """The score is the top-1 accuracy on the split."""
    images, labels = cifar(data, "train")
    network = resnet9().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0, weight_decay=0.05)
    padded = F.pad(images, (4, 4, 4, 4))
    seen = 0
    for indices in budget.batches(len(images), 128):
        budget.one_cycle(optimizer, 5e-3)
        tops, lefts = torch.randint(0, 9, (2, len(indices), 1, 1))
        rows, columns = tops + torch.arange(32)[:, None], lefts + torch.arange(32)
        batch = padded[indices[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
        batch = torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(3), batch)
        logits = network(normalise(batch).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels[indices], label_smoothing=0.1)
        step(optimizer, loss)
        seen += len(indices)
    images, labels = cifar(data, split)
    network.eval()
    with torch.no_grad():
        right = sum(
            int((network(normalise(part)).argmax(1) == truth).sum())
            for part, truth in zip(images.split(500), labels.split(500), strict=True)
        )
    return Result(100 * right / len(labels), seen, parameters(network))


def cifar(data: Path, split: str) -> tuple[Tensor, Tensor]:
    """uint8 (N, 3, 32, 32) and int64 (N,) of the parquet shards of a split."""
    from pyarrow import parquet

    rows = [row for file in sorted(data.glob(f"{split}-*.parquet")) for row in parquet.read_table(file).to_pylist()]
    pictures = [np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), torch.tensor([row["label"] for row in rows])


def train_unet(data: Path, budget: Budget, split: Split) -> Result:
    return train_segmenter(UNet(CLASSES_CAMVID), data, budget, split)


def train_smp(data: Path, budget: Budget, split: Split) -> Result:
    import segmentation_models_pytorch as smp

    network = smp.FPN("tu-mobilenetv3_small_100", encoder_weights=None, classes=CLASSES_CAMVID)
    return train_segmenter(network, data, budget, split)


def train_segmenter(network: nn.Module, data: Path, budget: Budget, split: Split) -> Result:
    """The score is the mean IoU over the 11 classes of the split in percent; crops are what is seen."""
    pairs = [camvid_pair(data, "train", name, (240, 180)) for name in camvid_names(data, "train")]
    images, masks = (torch.stack(column) for column in zip(*pairs, strict=True))
    counts = torch.bincount(masks[masks < VOID], minlength=CLASSES_CAMVID).float()
    weights = (counts.median() / counts.clamp(min=1)).sqrt()
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0, weight_decay=0.05)
    seen = 0
    for indices in budget.batches(len(images), 8):
        budget.one_cycle(optimizer, 3e-3)
        batch, truth = [], []
        for index in indices.tolist():
            top, left = int(torch.randint(0, 21, ())), int(torch.randint(0, 81, ()))
            turn = (-1,) if torch.rand(()) < 0.5 else ()
            batch.append(images[index, :, top : top + 160, left : left + 160].flip(turn))
            truth.append(masks[index, top : top + 160, left : left + 160].flip(turn))
        logits = network(normalise(torch.stack(batch)).contiguous(memory_format=torch.channels_last))
        step(optimizer, F.cross_entropy(logits, torch.stack(truth), weights, ignore_index=VOID))
        seen += len(indices)
    network.eval()
    confusion = torch.zeros(CLASSES_CAMVID, CLASSES_CAMVID)
    for name in camvid_names(data, split):
        image, _ = camvid_pair(data, split, name, (240, 180))
        truth = torch.from_numpy(np.array(Image.open(data / "masks" / split / f"{name}.png"))).long()
        with torch.no_grad():  # sides that 32 divides
            logits = network(F.pad(normalise(image)[None], (8, 8, 6, 6), mode="replicate"))[..., 6:-6, 8:-8]
        found = F.interpolate(logits, truth.shape, mode="bilinear").argmax(1)[0]
        counted = truth < VOID
        pairs_of_pixels = truth[counted] * CLASSES_CAMVID + found[counted]
        confusion += torch.bincount(pairs_of_pixels, minlength=CLASSES_CAMVID**2).view(CLASSES_CAMVID, -1)
    overlap = confusion.diag()
    miou = 100 * (overlap / (confusion.sum(0) + confusion.sum(1) - overlap)).mean()
    return Result(float(miou), seen, parameters(network))


def camvid_names(data: Path, split: str) -> list[str]:
    return sorted(file.stem for file in (data / "images" / split).glob("*.jpg"))


def camvid_pair(data: Path, split: str, name: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """uint8 (3, height, width) and int64 (height, width), resized to `size` (width, height)."""
    image = Image.open(data / "images" / split / f"{name}.jpg").convert("RGB").resize(size, Image.Resampling.BILINEAR)
    mask = Image.open(data / "masks" / split / f"{name}.png").resize(size, Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(mask)).long()


def train_ssdlite(data: Path, budget: Budget, split: Split) -> Result:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    from torchvision.transforms import v2

    def build(classes: int) -> nn.Module:
        return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)

    return train_detector(build, [v2.RandomIoUCrop()], data, budget, split)


def train_faster_rcnn(data: Path, budget: Budget, split: Split) -> Result:
    from torchvision.models import resnet18
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

    width, hidden = 48, 192  # of the pyramid and of the box head

    def build(classes: int) -> nn.Module:
        layers = {f"layer{level + 1}": str(level) for level in range(4)}
        return FasterRCNN(
            BackboneWithFPN(resnet18(weights=None), layers, [64, 128, 256, 512], width),
            min_size=192,
            max_size=320,
            rpn_anchor_generator=AnchorGenerator(
                tuple((side,) for side in (8, 16, 32, 64, 128)), ((0.5, 1.0, 2.0),) * 5
            ),
            rpn_post_nms_top_n_train=200,
            rpn_post_nms_top_n_test=200,
            box_batch_size_per_image=64,
            box_head=TwoMLPHead(width * 7**2, hidden),
            box_predictor=FastRCNNPredictor(hidden, classes),
        )

    return train_detector(build, [], data, budget, split)


def train_detector(
    build: Callable[[int], nn.Module], crops: list[nn.Module], data: Path, budget: Budget, split: Split
) -> Result:
    """The score is the box AP50 on the split in percent."""
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    from rmt.data.detection.layouts import detection_layout, open_detection_split
    from rmt.tasks.detect.metrics import coco_metrics

    layout = detection_layout(str(data))
    images, _ = open_detection_split(layout, with_masks=False, split="train")
    network = build(len(images.classes) + 1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0, weight_decay=1e-4)
    samples = [(v2.functional.pil_to_tensor(images.load(i)), images.objects(i)) for i in range(len(images))]
    augment = v2.Compose([*crops, v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes()])
    seen = 0
    for indices in budget.batches(len(images), 8):
        budget.one_cycle(optimizer, 1e-3)
        batch, targets = [], []
        for image, objects in (samples[index] for index in indices.tolist()):
            boxes = tv_tensors.BoundingBoxes(
                torch.from_numpy(objects.boxes), format="XYXY", canvas_size=image.shape[-2:]
            )
            target = {"boxes": boxes, "labels": torch.from_numpy(objects.labels) + 1}  # 0 is the background
            image, target = augment(tv_tensors.Image(image), target)
            batch.append(image.float() / 255)
            targets.append(target)
        loss = torch.stack(list(network(batch, targets).values())).sum()
        step(optimizer, loss, clip=list(network.parameters()))
        seen += len(indices)
    test = open_detection_split(layout, with_masks=False, split=split).images.with_classes(images.classes)
    network.eval()
    results = []
    for index in range(len(test)):
        with torch.no_grad():
            (found,) = network([v2.functional.pil_to_tensor(test.load(index)).float() / 255])
        for (left, top, right, bottom), label, score in zip(
            *(found[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            results.append(
                dict(
                    image_id=int(test.image_ids[index]),
                    category_id=test.category_ids[label - 1],
                    bbox=[left, top, right - left, bottom - top],
                    score=score,
                )
            )
    figures = coco_metrics(test.ground_truth(list(range(len(test)))), results, ["bbox"]).figures
    return Result(100 * figures["box"]["ap50"], seen, parameters(network))


def step(optimizer: torch.optim.Optimizer, loss: Tensor, clip: list[nn.Parameter] | None = None) -> None:
    optimizer.zero_grad()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(clip, 5.0)
    optimizer.step()


BASELINES = {
    "resnet9": train_resnet9,
    "unet": train_unet,
    "ssdlite": train_ssdlite,
    "smp": train_smp,
    "faster_rcnn": train_faster_rcnn,
}


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("baseline", choices=list(BASELINES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cpu-seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=get_args(Split), default="test", help="the part to evaluate on")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    result = BASELINES[args.baseline](args.data, Budget(args.cpu_seconds), args.split)
    found = result._asdict() | {"score": round(result.score, 2)}
    args.output.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(f"{args.baseline}: {result.score:.2f} % after {result.images_seen:,} images")


if __name__ == "__main__":
    main()
