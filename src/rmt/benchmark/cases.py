"""What is measured: one `Case` is one cell of models × sizes × batches × dtypes × modes × backends × steps."""

import dataclasses
import itertools
from dataclasses import dataclass

from rmt.errors import RMTError

MODES = ("eager", "compile", "deploy", "deploy+compile")  # on CUDA each also with +graph: replayed as a CUDA graph
STEPS = ("forward", "train")
DTYPES = ("float32", "bfloat16", "float16", "autocast")
MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure."""

    model: str
    image_size: int  # height in pixels
    image_width: int  # the same, or another
    batch: int
    dtype: str  # one of DTYPES; "autocast" is bfloat16 where PyTorch's autocast puts it
    mode: str  # one of MODES
    backend: str  # of our attention, "auto" for the rule's choice; always "auto" for other networks
    tolerance: float  # of windowed attention; 0 for exact
    step: str  # "forward", or "train": forward, loss and backward

    @property
    def label(self) -> str:
        size = str(self.image_size) + (f"×{self.image_width}" if self.image_width != self.image_size else "")
        parts = [self.model, size, f"batch {self.batch}", self.dtype, self.mode, self.step]
        parts += [self.backend] if self.backend != "auto" else []
        parts += [f"window {self.tolerance:g}"] if self.tolerance else []
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A run: the cases are the product of the tuples, less what makes no sense (see `list_cases`)."""

    models: tuple[str, ...] = ("rmt_small", "swin_tiny_patch4_window7_224")  # ours, and timm's by name
    image_sizes: tuple[str, ...] = ("224",)  # pixels a side, or HEIGHTxWIDTH
    batches: tuple[int, ...] = (8,)
    dtypes: tuple[str, ...] = ("float32",)
    modes: tuple[str, ...] = ("eager", "deploy")  # "eager/plain" is the mode with this backend alone
    backends: tuple[str, ...] = ("auto",)
    tolerances: tuple[float, ...] = (0.0,)
    steps: tuple[str, ...] = ("forward",)
    device: str = "cpu"
    memory_format: str = "contiguous"
    rounds: int = 7  # each measures every case once, in an order of its own
    seconds: float = 0.2  # a case's share of a round: short steps are repeated
    memory: bool = True
    tf32: bool = False  # CUDA: TensorFloat-32 in float32 products
    threads: int = 0  # 0 leaves PyTorch's own
    seed: int = 0


def list_cases(options: Options, ours: frozenset[str]) -> list[Case]:
    """The cases of a run. Other networks than `ours` have no deployed form, backends or windows: one case stands.

    Raises:
        RMTError: an unknown word.
    """
    for words, known in (
        (tuple(mode.partition("/")[0].removesuffix("+graph") for mode in options.modes), MODES),
        (options.steps, STEPS),
        (options.dtypes, DTYPES),
        ((options.memory_format,), MEMORY_FORMATS),
    ):
        for word in words:
            if word not in known:
                raise RMTError(f"{word!r} is not one of {', '.join(known)}")
    if any(mode.endswith("+graph") for mode in options.modes) and not options.device.startswith("cuda"):
        raise RMTError(f"a mode with +graph is for CUDA, and the device is {options.device}")
    found: dict[Case, None] = {}  # an ordered set
    for model, size, batch, dtype, mode, backend, tolerance, step in itertools.product(
        options.models,
        options.image_sizes,
        options.batches,
        options.dtypes,
        options.modes,
        options.backends,
        options.tolerances,
        options.steps,
    ):
        height, width = _size(size)
        mode, _, own_backend = mode.partition("/")
        backend = own_backend or backend
        if mode.startswith("deploy") and step == "train":
            continue  # it has no gradients
        if tolerance and not mode.startswith("deploy"):
            continue  # an option of the deployed form
        case = Case(
            model=model,
            image_size=height,
            image_width=width,
            batch=batch,
            dtype=dtype,
            mode=mode,
            backend=backend,
            tolerance=tolerance,
            step=step,
        )
        if model not in ours:
            mode = mode.replace("deploy+compile", "compile").replace("deploy", "eager")
            case = dataclasses.replace(case, mode=mode, backend="auto", tolerance=0.0)
        found[case] = None
    return list(found)


def _size(text: str) -> tuple[int, int]:
    """224 or 800x1333 as (height, width)."""
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        raise RMTError(f"{text!r} is neither pixels a side nor HEIGHTxWIDTH") from None
    if min(size) < 1:
        raise RMTError(f"an image of {text} pixels is empty")
    return size
