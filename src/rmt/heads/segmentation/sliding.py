"""Segment an image of any size, whole or with sliding windows, in memory that the window size bounds.

Windows overlap, and their logits are blended with weights that decrease towards the border of each window, so that no
border is visible. The image stays uint8 and is normalised window by window, and the logits of a row of windows are kept
only until the next row has been added. So apart from the image and the class map, memory depends on window, stride and
number of classes only.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from rmt.errors import RMTError
from rmt.heads.segmentation.decode_heads import resize

_MIN_SIZE = 32  # smallest side of an image for the backbone
_STRIP_BYTES = 256 * 2**20  # of the logits that are being blended
_LEAST_WEIGHT = 1e-6  # not 0: at the border of the image one window alone counts
_BAND_VALUES = 2**25  # of logits that are being enlarged


@dataclass(frozen=True)
class InferenceOptions:
    """How an image is segmented.

    Attributes:
        sliding: with windows; otherwise the whole image at once.
        window: side of the windows in pixels, 32 or more.
        stride: distance of neighbouring windows in pixels, at most `window`.
        flip: average with the prediction for the mirrored image.
        scales: average the predictions at these multiples of the size; windows are enlarged one by one.
        batch: windows per forward pass.
    Raises:
        RMTError: a value is out of its bounds.
    """

    sliding: bool = False
    window: int = 512
    stride: int = 341
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    batch: int = 4

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RMTError(f"--batch-size must be at least 1, not {self.batch}")
        if not self.scales or min(self.scales) <= 0:
            raise RMTError(f"--scales must be one or more positive numbers, not {' '.join(map(str, self.scales))}")
        if not self.window >= _MIN_SIZE or not 1 <= self.stride <= self.window:
            raise RMTError(
                f"window must be at least {_MIN_SIZE} pixels and stride between 1 and window, not {self.window} and"
                f" {self.stride}"
            )


@torch.inference_mode()
def segment(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    inference: InferenceOptions | None = None,
) -> Tensor:
    """Return the class of each pixel, uint8 (*size) on the CPU.

    Args:
        network: a segmenter in eval mode or a `Runtime`: (B, 3, h, w) to logits (B, K, h, w), K = `num_classes` ≤ 255.
        image: uint8 (3, h, w), on the device of the network.
        size: (height, width) of the result; logits are resized to it before classes are chosen.
        mean, std: of the network's input, after division by 255.
        inference: whole or sliding, flip, scales; whole by default.
    """
    options = inference or InferenceOptions()
    forward = partial(_forward, network, mean=mean, std=std, options=options)
    height, width = image.shape[1:]
    if not options.sliding or max(height, width) <= options.window:
        return _classes(_resize_in_bands(forward(image[None])[0], size))
    num_classes = int(network.num_classes)  # type: ignore[attr-defined]
    blocks = _blended_blocks(forward, num_classes, image, options)
    if (height, width) == tuple(size):
        labels = torch.empty((height, width), dtype=torch.uint8)
        for top, left, block in blocks:
            labels[top : top + block.shape[1], left : left + block.shape[2]] = _classes([block])
        return labels
    # Resizing needs all logits at once. This image has been resized for the network, so it is small.
    logits = torch.empty((num_classes, height, width), device=image.device)
    for top, left, block in blocks:
        logits[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    return _classes(_resize_in_bands(logits, size))


def _classes(bands: Iterable[Tensor]) -> Tensor:
    """Classes of bands of logits (K, hᵢ, w): uint8 (Σ hᵢ, w) on the CPU."""
    # Not argmax, which takes four times as long on a CPU over the first of three dimensions.
    return torch.cat([band.max(0).indices.to(torch.uint8).cpu() for band in bands])


def _forward(
    network: Callable[[Tensor], Tensor],
    crops: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    options: InferenceOptions,
) -> Tensor:
    """Crops of equal size, uint8 (B, 3, h, w), to logits float32 (B, K, h, w), or to the mean of the probabilities if
    several predictions are averaged."""
    shift, scale = (torch.tensor(v, device=crops.device).view(3, 1, 1) for v in (mean, std))
    x = (crops.float() / 255 - shift) / scale
    first, *others = itertools.product(options.scales, (False, True) if options.flip else (False,))
    if not others:
        return _logits(network, x, *first)
    total = _logits(network, x, *first).softmax(1)
    for other in others:
        total += _logits(network, x, *other).softmax(1)
    return total.div_(1 + len(others))


def _logits(network: Callable[[Tensor], Tensor], x: Tensor, scale: float, flip: bool) -> Tensor:
    """Logits at the size of `x`. Images that are too small for the backbone are padded with 0."""
    height, width = (max(1, round(side * scale)) for side in x.shape[2:])
    scaled = x if scale == 1 else resize(x, (height, width))
    scaled = scaled.flip(3) if flip else scaled
    logits = network(pad_to_smallest(scaled))[:, :, :height, :width].float()
    logits = logits.flip(3) if flip else logits
    return logits if scale == 1 else resize(logits, x.shape[2:])


def pad_to_smallest(x: Tensor) -> Tensor:
    """Images (B, 3, h, w), padded with 0 at the right and at the bottom to the smallest size for the backbone."""
    return F.pad(x, (0, max(0, _MIN_SIZE - x.shape[3]), 0, max(0, _MIN_SIZE - x.shape[2])))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return where windows start along a side: every `stride`, the last one moved back to end with the image."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def blending_weights(window: int, stride: int) -> Tensor:
    """Return weights of a window along a side, float32 (window,): 1 in the middle, decreasing over the overlap.

    The outermost eighths of the overlap do not count where another window covers them: there the zero padding of the
    network's convolutions changes the logits, in the first row of tokens so much that a small weight is too large.
    """
    overlap = window - stride
    margin = overlap // 8
    position = torch.arange(window) + 0.5
    ramp = (torch.minimum(position, window - position) - margin) / max(overlap - 2 * margin, 1)
    return ramp.clamp(min=_LEAST_WEIGHT, max=1)


def _blended_blocks(
    forward: Callable[[Tensor], Tensor], classes: int, image: Tensor, options: InferenceOptions
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (top, left, logits float32 (K, h, w)) of blocks that tile the image, each blended from all its windows.

    A block is valid until the next one is requested.

    The image is processed in vertical strips, and in each strip one row of windows after the other. A strip is as wide
    as `_STRIP_BYTES` allow; windows that overlap two strips are computed twice.
    """
    height, width = image.shape[1:]
    stride = options.stride
    window_h, window_w = min(options.window, height), min(options.window, width)
    tops, lefts = window_starts(height, window_h, stride), window_starts(width, window_w, stride)
    weight_h, weight_w = blending_weights(window_h, stride), blending_weights(window_w, stride)
    total_h, total_w = _total_weight(tops, weight_h, height), _total_weight(lefts, weight_w, width)
    strip = max(stride, _STRIP_BYTES // (4 * classes * window_h) // stride * stride)
    for left in range(0, width, strip):
        right = min(left + strip, width)
        columns = [x for x in lefts if x < right and x + window_w > left]
        buffer = torch.zeros((classes, window_h, right - left), device=image.device)  # rows from `top` on
        scale_h, scale_w = total_h.to(image.device), total_w[left:right].to(image.device)
        weight = (weight_h[:, None] * weight_w).to(image.device)
        for top, next_top in zip(tops, [*tops[1:], height], strict=True):
            for start in range(0, len(columns), options.batch):
                batch = columns[start : start + options.batch]
                logits = forward(torch.stack([image[:, top : top + window_h, x : x + window_w] for x in batch]))
                for x, window in zip(batch, logits, strict=True):
                    inside = slice(max(left - x, 0), min(right - x, window_w))
                    target = slice(x + inside.start - left, x + inside.stop - left)
                    buffer[:, :, target] += window.mul_(weight)[:, :, inside]
            done = next_top - top  # no later window overlaps these rows
            yield top, left, buffer[:, :done].div_(scale_h[top:next_top, None] * scale_w)
            rest = buffer[:, done:].clone()  # moved within the buffer: a second one would double the memory
            buffer[:, : rest.shape[1]] = rest
            buffer[:, rest.shape[1] :] = 0


def _total_weight(starts: list[int], weight: Tensor, length: int) -> Tensor:
    """Sum of the weights of the windows at each position along a side, float32 (length,)."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(weight)] += weight
    return total


def _resize_in_bands(logits: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """`resize(logits, size)`, (K, h, w) to (K, *size), in bands of rows: never the whole result in memory."""
    classes, height, width = logits.shape
    if (height, width) == tuple(size):
        yield logits
        return
    rows = max(1, _BAND_VALUES // (classes * size[1]))
    for top in range(0, size[0], rows):
        # Bilinear interpolation without aligned corners, written out for the rows; `resize` does the columns.
        row = torch.arange(top, min(top + rows, size[0]), device=logits.device)
        source = ((row + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
        above = source.floor().long().clamp(max=height - 1)
        below = (above + 1).clamp(max=height - 1)
        part = torch.lerp(logits[:, above], logits[:, below], (source - above)[:, None])
        yield resize(part[None], (part.shape[1], size[1]))[0]
