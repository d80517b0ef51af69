"""`python benchmarks/cifar10.py --data SHARDS --seconds 150`: train a small RMT on CIFAR-10 on one GPU in minutes.

Everything happens on the GPU: the images stay there as uint8, and one step (augmentation, forward, backward, Muon and
AdamW, moving average) is replayed as a CUDA graph. 2,000 training images are held out to watch the training; the test
images are read once, at the end, for the last weights and their average. Needs torch, timm and pyarrow.
"""

import argparse
import copy
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import rmt
from rmt.benchmark.machine import describe
from rmt.benchmark.timing import cuda_graph
from rmt.model.checkpoints import save_checkpoint

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NETWORK: dict[str, Any] = dict(
    depths=(2, 4, 1),
    dims=(64, 128, 192),
    num_heads=(4, 8, 12),
    mlp_ratios=(2, 2, 2),
    decomposed=(True, True, True),
    decay_ranges=((2, 6),) * 3,
    layer_scales=(None,) * 3,
    num_classes=10,
    drop_path_rate=0.05,
)
SIDE, BORDER = 64, 8  # the photographs, of 32 × 32, are enlarged


def read(folder: Path, part: str, limit: int) -> tuple[Tensor, Tensor]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) of the shards `PART-*.parquet`; the first `limit`, or all if 0."""
    import numpy as np
    import pyarrow.parquet as pq

    images, labels = [], []
    for path in sorted(folder.glob(f"{part}-*.parquet")):
        table = pq.read_table(path).to_pydict()
        files, numbers = table["image"][: limit or None], table["label"][: limit or None]
        images += [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in files]
        labels += numbers
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def enlarged(images: Tensor, side: int) -> Tensor:
    """Images (N, 3, h, w), 0 to 255, bicubically enlarged to side × side, as Pillow does; uint8."""
    parts = [F.interpolate(x.float(), (side, side), mode="bicubic", antialias=True) for x in images.split(2000)]
    return torch.cat([x.round().clamp(0, 255).to(torch.uint8) for x in parts])


class Augmentation:
    """Batches of the training images: shifted, mirrored, some turned, recoloured or CutMixed."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        border = BORDER * images.shape[1] // SIDE
        padded = F.pad(images.permute(0, 3, 1, 2).float(), (border,) * 4, mode="reflect")
        self.images = enlarged(padded, SIDE + 2 * BORDER).permute(0, 2, 3, 1).contiguous()
        self.labels, self.mean, self.std = labels, mean, std

    def __call__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 64, 64) and class probabilities (B, 10) for the indices (B,)."""
        n, device = len(chosen), chosen.device

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(n, device=device) * (high - low) + low

        def sometimes(value: Tensor, otherwise: float) -> Tensor:
            return torch.where(torch.rand(n, device=device) < 0.35, value, otherwise)

        pixel = torch.arange(SIDE, device=device)
        rows, columns = (
            (torch.rand(n, device=device) * (2 * BORDER + 1)).long()[:, None] + pixel for _ in range(2)
        )  # (B, 64)
        mirrored = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        x = self.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, 64, 64, 3)
        x = x.permute(0, 3, 1, 2).float() / 255
        # Turned by up to 10°, sheared, larger or smaller by up to 10 %.
        angle, shear = sometimes(uniform(-0.17, 0.17), 0.0), sometimes(uniform(-0.15, 0.15), 0.0)
        size = sometimes(uniform(0.9, 1.1), 1.0)
        cos, sin, zero = angle.cos() * size, angle.sin() * size, torch.zeros_like(angle)
        matrix = torch.stack((cos, shear - sin, zero, sin, cos, zero), 1).view(n, 2, 3)
        grid = F.affine_grid(matrix, [n, 3, SIDE, SIDE], align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        # Brightness, contrast, saturation.
        bright, contrast, colour = (sometimes(uniform(0.75, 1.25), 1.0)[:, None, None, None] for _ in range(3))
        x = x * bright
        x = (x - x.mean((1, 2, 3), keepdim=True)) * contrast + x.mean((1, 2, 3), keepdim=True)
        grey = x.mean(1, keepdim=True)
        x = ((x - grey) * colour + grey).clamp(0, 1)
        x = (x - self.mean[:, None, None]) / self.std[:, None, None]
        target = torch.eye(len(CLASSES), device=device)[self.labels[chosen]]
        # CutMix: a box of the next image, of a uniformly drawn area.
        side = sometimes((SIDE * uniform(0.0, 1.0).sqrt()).round(), 0.0)[:, None]
        inside = [
            (pixel >= start) & (pixel < start + side)
            for start in ((torch.rand(n, 1, device=device) * (SIDE + 1 - side)).floor() for _ in range(2))
        ]
        box = inside[0][:, None, :, None] & inside[1][:, None, None, :]  # (B, 1, 64, 64)
        area = box.float().mean((1, 2, 3))[:, None]
        return torch.where(box, x.roll(1, 0), x), target * (1 - area) + target.roll(1, 0) * area


class Muon:
    """Momentum whose updates of matrices are orthogonalised (Newton-Schulz), with weight decay."""

    def __init__(self, weights: list[Tensor], lr: Tensor, weight_decay: float, momentum: float = 0.95) -> None:
        self.weights, self.lr, self.weight_decay, self.momentum = weights, lr, weight_decay, momentum
        self.moments = [torch.zeros_like(w) for w in weights]
        shapes: dict[tuple[int, int], list[int]] = {}
        for i, w in enumerate(weights):
            shapes.setdefault((len(w), w[0].numel()), []).append(i)
        self.groups = list(shapes.items())  # matrices of one shape are orthogonalised together

    @torch.no_grad()
    def step(self) -> None:
        grads = [w.grad for w in self.weights]
        torch._foreach_lerp_(self.moments, grads, 1 - self.momentum)
        updates = torch._foreach_lerp(grads, self.moments, self.momentum)
        torch._foreach_mul_(self.weights, 1 - self.lr * self.weight_decay)
        for (rows, columns), members in self.groups:
            x = torch.stack([updates[i].reshape(rows, columns) for i in members]).bfloat16()
            x = x.mT if rows > columns else x
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for a, b, c in [(3.4445, -4.7750, 2.0315)] * 5:
                square = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
            x = x.mT if rows > columns else x
            update = x.float() * (self.lr * max(1, rows / columns) ** 0.5)
            weights = [self.weights[i] for i in members]
            torch._foreach_sub_(weights, [u.reshape(w.shape) for u, w in zip(update, weights, strict=True)])


class Training:
    """The network, its average and one training step."""

    def __init__(self, model: nn.Module, augment: Augmentation, batch: int, device: str, options: argparse.Namespace):
        self.model, self.average = model, copy.deepcopy(model)
        self.augment, self.decay = augment, options.ema_decay
        self.rates = {name: torch.zeros((), device=device) for name in ("muon", "adamw")}
        self.chosen = torch.zeros(batch, dtype=torch.long, device=device)
        self.loss = torch.zeros((), device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, cache_enabled=False)
        matrices = [
            m.weight
            for name, m in model.named_modules()
            if isinstance(m, nn.Linear | nn.Conv2d) and name != "head.fc" and getattr(m, "groups", 1) == 1
        ]
        kept = {id(w) for w in matrices}
        rest = [p for p in model.parameters() if id(p) not in kept]
        self.muon = Muon(matrices, self.rates["muon"], options.weight_decay)
        self.adamw = torch.optim.AdamW(
            rest, lr=self.rates["adamw"], betas=(0.9, 0.95), weight_decay=0.0, capturable=device == "cuda"
        )
        floats = [
            list(m.parameters()) + [b for b in m.buffers() if b.is_floating_point()] for m in (self.average, model)
        ]
        self.averaged, self.current = ([t.detach() for t in tensors] for tensors in floats)

    def step(self) -> None:
        x, target = self.augment(self.chosen)
        with self.autocast:
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=0.1)
        loss.backward()
        self.loss.copy_(loss.detach())
        self.muon.step()
        self.adamw.step()
        torch._foreach_lerp_(self.averaged, self.current, 1 - self.decay)
        for p in self.model.parameters():
            p.grad = None


def batches(count: int, size: int, device: str) -> Iterator[Tensor]:
    """Indices of batches, epoch after epoch in new orders; what remains of an order is left out."""
    while True:
        yield from torch.randperm(count, device=device)[: count // size * size].view(-1, size)


@torch.no_grad()
def accuracy(training: Training, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Fraction of right answers for uint8 images."""
    model.eval()
    right = 0
    for x, y in zip(images.split(2000), labels.split(2000), strict=True):
        x = enlarged(x.permute(0, 3, 1, 2), SIDE).float() / 255
        x = (x - training.augment.mean[:, None, None]) / training.augment.std[:, None, None]
        with training.autocast:
            right += int((model(x).argmax(1) == y).sum())
    model.train()
    return right / len(labels)


def rate(progress: float, warmup: float = 0.03) -> float:
    """Fraction of the peak learning rates: linear warm-up, then linearly to 0."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards train-* and test-*")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and results")
    parser.add_argument("--seconds", type=float, default=150, help="of training steps, without preparation")
    parser.add_argument("--epochs", type=float, default=0, help="instead of --seconds")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, and stop")
    parser.add_argument("--network", type=json.loads, default={}, help="JSON: arguments other than NETWORK's")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.015, help="peak rate of Muon")
    parser.add_argument("--adamw-lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02, help="of the matrices")
    parser.add_argument("--ema-decay", type=float, default=0.999)
    parser.add_argument("--held-out", type=int, default=2000, help="training images that watch the training")
    parser.add_argument("--limit", type=int, default=0, help="images of a trial: the first of each part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(options.seed)
    torch.backends.cudnn.benchmark = True
    begin = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - begin:6.1f} s  {text}", flush=True)

    images, labels = (t.to(device) for t in read(options.data, "train", options.limit))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(device)
    held, kept = order[: options.held_out], order[options.held_out :]
    network = NETWORK | options.network
    model = rmt.create_model("rmt_nano", **network).to(device)
    mean, std = (torch.tensor(model.pretrained_cfg[key], device=device) for key in ("mean", "std"))
    parameters = sum(p.numel() for p in model.parameters())
    training = Training(model, Augmentation(images[kept], labels[kept], mean, std), options.batch, device, options)
    say(f"{len(kept)} training images, {parameters / 1e6:.2f} M parameters")

    step = cuda_graph(training.step) if device == "cuda" else training.step  # at learning rates of 0
    stream = batches(len(kept), options.batch, device)

    def run(progress: float) -> None:
        for name, peak in (("muon", options.lr), ("adamw", options.adamw_lr)):
            training.rates[name].fill_(peak * rate(progress))
        training.chosen.copy_(next(stream))
        step()

    start = time.perf_counter()
    for _ in range(20 if device == "cuda" else 1):
        run(0.0)
    float(training.loss)
    seconds_each = (time.perf_counter() - start) / (20 if device == "cuda" else 1)
    per_epoch = len(kept) / options.batch
    total = int(options.epochs * per_epoch if options.epochs else options.seconds / seconds_each)
    say(f"{seconds_each * 1e3:.2f} ms per step, {total} steps, {total / per_epoch:.1f} epochs")
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(5):
                run(0.0)
            float(training.loss)
        table = profile.key_averages()
        rows = sorted(table, key=lambda row: -row.self_device_time_total)
        total_us, count = sum(row.self_device_time_total for row in rows) / 5, sum(row.count for row in rows) / 5
        print(f"{total_us / 1e3:.2f} ms in {count:.0f} kernels")
        for row in rows[:30]:
            print(f"{row.self_device_time_total / 5:8.0f} µs {row.count / 5:6.0f} × {row.key[:100]}")
        return
    start, curve = time.perf_counter(), []
    for done in range(total):
        run((done + 1) / total)
        if (done + 1) % max(1, total // 12) == 0 or done + 1 == total:
            scores = [accuracy(training, m, images[held], labels[held]) for m in (model, training.average)]
            curve.append([(done + 1) / per_epoch, *scores])
            loss = float(training.loss)
            say(f"epoch {curve[-1][0]:.1f}: loss {loss:.3f}, held out {scores[0]:.4f}, EMA {scores[1]:.4f}")
    seconds = time.perf_counter() - start
    test = [t.to(device) for t in read(options.data, "test", options.limit)]
    scores = [accuracy(training, m, *test) for m in (model, training.average)]
    say(f"test: last {scores[0]:.4f}, EMA {scores[1]:.4f}")

    options.output.mkdir(parents=True, exist_ok=True)
    result = dict(
        command=vars(options) | dict(data=None, output=None),
        network=network,
        parameters=parameters,
        machine=describe(device),
        epochs=total / per_epoch,
        seconds=seconds,
        step_ms=seconds_each * 1e3,
        held_out=[dict(zip(("epoch", "last", "ema"), row, strict=True)) for row in curve],
        test=dict(last=scores[0], ema=scores[1]),
    )
    (options.output / "cifar10.json").write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    metrics = dict(result["test"], epochs=result["epochs"])
    for name, network_ in (("last", model), ("ema", training.average)):
        state = {k: v.half() if v.is_floating_point() else v for k, v in network_.state_dict().items()}
        cfg = dict(size=[SIDE, SIDE], mean=mean.tolist(), std=std.tolist(), interpolation="bicubic", crop_pct=1.0)
        path = options.output / f"cifar10-{name}.safetensors"
        save_checkpoint(model, path, classes=CLASSES, preprocessing=cfg, metrics=metrics, state_dict=state)


if __name__ == "__main__":
    main()
