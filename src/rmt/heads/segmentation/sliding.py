"""From an image of any size to a class per pixel, whole or by windows, in memory that the window bounds.

Windows overlap; where they do, their answers are blended with weights that fall towards each window's border, so that
no border shows. The image stays uint8 and is normalised window by window, and the answers of a row of windows are kept
only until the next row has been added: beyond the image itself and the map of its classes, memory depends on window,
stride and the number of classes alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmt.errors import RMTError
from rmt.heads.segmentation.layers import resize

_SMALLEST = 32  # sides of an image that the backbone takes
_STRIP_BYTES = 256 * 2**20  # of the answers that are being blended
_BAND_VALUES = 2**25  # of a map that is being enlarged


@dataclass(frozen=True)
class Inference:
    """How an image is looked at.

    Attributes:
        sliding: by windows of `window` pixels, `stride` apart; else the whole image at once.
        flip: average with the answer to the mirrored image.
        scales: average the answers at these multiples of the size; windows are enlarged one by one.
        batch: windows that go through the network together.
    """

    sliding: bool = False
    window: int = 512
    stride: int = 341
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch: int = 4

    def __post_init__(self) -> None:
        if self.batch < 1 or not self.scales or min(self.scales) <= 0:
            raise RMTError(f"--batch-size must be at least 1 and --scales positive, not {self.batch} and {self.scales}")
        if not self.window >= _SMALLEST or not 1 <= self.stride <= self.window:
            raise RMTError(
                f"--window must be at least {_SMALLEST} and --stride from 1 to it, not {self.window} and {self.stride}"
            )

    @property
    def passes(self) -> int:
        """How many answers are averaged."""
        return len(self.scales) * (2 if self.flip else 1)


WHOLE = Inference()
"""The image at once, and that alone."""

Context = Callable[[], contextlib.AbstractContextManager[Any]]


@torch.inference_mode()
def segment(
    network: nn.Module,
    image: Tensor,
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    inference: Inference = WHOLE,
    arithmetic: Context = contextlib.nullcontext,
) -> Tensor:
    """The class of each pixel, uint8 (*size) on the CPU.

    Args:
        network: a segmenter in eval mode: (B, 3, h, w) to logits (B, K, h, w), K = `num_classes` ≤ 255.
        image: uint8 (3, h, w), on any device; it is moved to the network's, window by window if `sliding`.
        size: (height, width) of the map to return; the answers are enlarged to it before classes are chosen.
        mean, std: of the network's images, after division by 255.
        inference: whole or sliding, flip, scales.
        arithmetic: a context for the forward pass, such as autocast.
    """
    device = next(network.parameters()).device
    forward = _ForwardPass(network, mean, std, inference, arithmetic, device)
    height, width = image.shape[1:]
    if not inference.sliding or max(height, width) <= inference.window:
        answer = forward(image[None])[0]
        return torch.cat([band.argmax(0).to(torch.uint8).cpu() for band in _enlarged(answer, size)])
    labels = torch.empty((height, width), dtype=torch.uint8)
    if (height, width) == tuple(size):
        for top, left, block in _blended(forward, image, inference):
            labels[top : top + block.shape[1], left : left + block.shape[2]] = block.argmax(0).to(torch.uint8).cpu()
        return labels
    # The answers have to be whole before they can be enlarged: this image has been made to fit, so it is small.
    answers: Tensor | None = None
    for top, left, block in _blended(forward, image, inference):
        if answers is None:
            answers = block.new_empty((block.shape[0], height, width))
        answers[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    assert answers is not None
    return torch.cat([band.argmax(0).to(torch.uint8).cpu() for band in _enlarged(answers, size)])


@dataclass(frozen=True)
class _ForwardPass:
    """Pieces of one size, uint8 (B, 3, h, w), to their answers float32 (B, K, h, w).

    An answer is logits, or the mean of probabilities where several are averaged.
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    inference: Inference
    arithmetic: Context
    device: torch.device

    def __call__(self, pieces: Tensor) -> Tensor:
        pixels = pieces.to(self.device).float() / 255
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        x = (pixels - mean) / std
        if self.inference.passes == 1 and self.inference.scales == (1.0,):
            return self._logits(x)
        total: Tensor | None = None
        for scale in self.inference.scales:
            height, width = (max(1, round(side * scale)) for side in x.shape[2:])
            scaled = resize(x, (height, width))
            for flipped in (False, True) if self.inference.flip else (False,):
                logits = self._logits(scaled.flip(3) if flipped else scaled)
                if self.inference.passes == 1:
                    return resize(logits, x.shape[2:])
                answer = resize(logits.flip(3) if flipped else logits, x.shape[2:]).softmax(1)
                total = answer if total is None else total.add_(answer)
        assert total is not None
        return total.div_(self.inference.passes)

    def _logits(self, x: Tensor) -> Tensor:
        """The network's answer, also to an image that is smaller than it takes: padded with 0 and cut again."""
        height, width = x.shape[2:]
        x = F.pad(x, (0, max(0, _SMALLEST - width), 0, max(0, _SMALLEST - height)))
        with self.arithmetic():
            logits = self.network(x)
        return logits[:, :, :height, :width].float()


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride`, the last one moved back to end with the image."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def taper(window: int, stride: int) -> Tensor:
    """Weights of a window along a side, float32 (window,): 1 in the middle, falling linearly over the overlap."""
    place = torch.arange(window) + 0.5
    return (torch.minimum(place, window - place) / max(window - stride, 1)).clamp(max=1)


def _blended(forward: _ForwardPass, image: Tensor, inference: Inference) -> Iterator[tuple[int, int, Tensor]]:
    """(top, left, answers float32 (K, h, w)) of blocks that tile the image, each blended from all its windows.

    A block is valid until the next one is asked for.

    The image is worked through in vertical strips, and in each row of windows by row. Windows that reach into two
    strips are looked at twice; a strip is as wide as `_STRIP_BYTES` allow.
    """
    height, width = image.shape[1:]
    down, across = min(inference.window, height), min(inference.window, width)
    tops, lefts = starts(height, down, inference.stride), starts(width, across, inference.stride)
    weight_down, weight_across = taper(down, inference.stride), taper(across, inference.stride)
    total_down, total_across = _coverage(tops, weight_down, height), _coverage(lefts, weight_across, width)
    classes = int(forward.network.num_classes)  # type: ignore[arg-type]
    strip = max(inference.stride, _STRIP_BYTES // (4 * classes * down) // inference.stride * inference.stride)
    for left in range(0, width, strip):
        right = min(left + strip, width)
        columns = [x for x in lefts if x < right and x + across > left]
        buffer = torch.zeros((classes, down, right - left), device=forward.device)  # of rows `top` and below
        scale = (total_down.to(forward.device), total_across[left:right].to(forward.device))
        weight = (weight_down[:, None] * weight_across).to(forward.device)
        for top, below in zip(tops, [*tops[1:], height], strict=True):
            for some in range(0, len(columns), inference.batch):
                chosen = columns[some : some + inference.batch]
                answers = forward(torch.stack([image[:, top : top + down, x : x + across] for x in chosen]))
                for x, answer in zip(chosen, answers, strict=True):
                    inside = slice(max(left - x, 0), min(right - x, across))
                    place = slice(x + inside.start - left, x + inside.stop - left)
                    buffer[:, :, place] += answer.mul_(weight)[:, :, inside]
            done = below - top  # no later window reaches these rows
            yield top, left, buffer[:, :done].div_(scale[0][top:below, None] * scale[1])
            kept = buffer[:, done:].clone()  # moved up within the buffer: a second one would double the memory
            buffer[:, : kept.shape[1]] = kept
            buffer[:, kept.shape[1] :] = 0


def _coverage(places: list[int], weight: Tensor, length: int) -> Tensor:
    """The sum of the windows' weights at each place along a side, float32 (length,)."""
    total = torch.zeros(length)
    for place in places:
        total[place : place + len(weight)] += weight
    return total


def _enlarged(answers: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """`resize(answers, size)`, (K, h, w) to (K, *size), in bands of rows, so that the whole is never held."""
    classes, height, width = answers.shape
    if (height, width) == tuple(size):
        yield answers
        return
    rows = max(1, _BAND_VALUES // (classes * size[1]))
    # The bilinear rule without aligned corners, spelled out for the rows; the columns are torch's own.
    source = ((torch.arange(size[0], device=answers.device) + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    above = source.floor().long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    share = source - above
    for top in range(0, size[0], rows):
        band = slice(top, top + rows)
        part = torch.lerp(answers[:, above[band]], answers[:, below[band]], share[band, None])
        yield resize(part[None], (part.shape[1], size[1]))[0]
