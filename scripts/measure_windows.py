"""Peak memory of inference with sliding windows at the size of the image, apart from that of the network.

    python scripts/measure_windows.py [--height 4000] [--width 6000] [--classes 150]

The network is a single 1×1 convolution, so this measures the blending of windows of 512² with stride 341. Prints one
JSON object; the peak is the resident memory of the process.
"""

import argparse
import json
import platform
import resource
import time

import torch
from torch import Tensor, nn

from rmt.heads.segmentation.sliding import InferenceOptions, segment


class PixelWise(nn.Module):
    """A segmenter of one 1×1 convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(3, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=4000)
    parser.add_argument("--width", type=int, default=6000)
    parser.add_argument("--classes", type=int, default=150)
    args = parser.parse_args()
    network = PixelWise(args.classes).eval()
    image = torch.randint(256, (3, args.height, args.width), dtype=torch.uint8)
    before, since = peak_mib(), time.process_time()
    size = (args.height, args.width)
    options = InferenceOptions(sliding=True, batch=1)
    segment(network, image, size, mean=(0.5,) * 3, std=(0.5,) * 3, inference=options)
    result = {
        "image": f"{args.width}x{args.height}",
        "classes": args.classes,
        "image_mib": round(image.nbytes / 2**20),
        "before_mib": round(before),
        "peak_mib": round(peak_mib()),
        "added_mib": round(peak_mib() - before),
        "cpu_seconds": round(time.process_time() - since),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
