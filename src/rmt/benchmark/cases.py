"""The cases of a benchmark: models × image sizes × batches × dtypes × modes × backends × tolerances × steps."""

import itertools
from dataclasses import dataclass

from rmt.errors import RMTError

RUNTIMES = ("onnxruntime", "openvino")  # the exported network on a CPU in float32; ours in the deployed form
MODES = ("eager", "compile", "deploy", "deploy+compile", *RUNTIMES)  # on CUDA also +graph: replayed as a CUDA graph
STEPS = ("forward", "train")
DTYPES = ("float32", "bfloat16", "float16", "autocast")
MEMORY_FORMATS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Case:
    """One measurement."""

    model: str
    image_size: int  # height in pixels
    image_width: int  # width in pixels
    batch: int
    dtype: str  # one of DTYPES; "autocast" is PyTorch's autocast to bfloat16
    mode: str  # one of MODES, or with +graph
    backend: str  # of attention in RMT networks, "auto" for the default; always "auto" for other networks
    tolerance: float  # of windowed attention; 0 for exact
    step: str  # "forward", or "train": forward pass, loss and backward pass

    @property
    def label(self) -> str:
        size = str(self.image_size) + (f"×{self.image_width}" if self.image_width != self.image_size else "")
        parts = [self.model, size, f"batch {self.batch}", self.dtype, self.mode, self.step]
        parts += [self.backend] if self.backend != "auto" else []
        parts += [f"window {self.tolerance:g}"] if self.tolerance else []
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run. Its cases are the product of the tuples, without impossible ones (see `list_cases`)."""

    models: tuple[str, ...] = ("rmt_small", "swin_tiny_patch4_window7_224")  # names of RMT networks, or of timm's
    image_sizes: tuple[str, ...] = ("224",)  # pixels a side, HEIGHTxWIDTH, or "published": that of the accuracy
    batches: tuple[int, ...] = (8,)  # images per step
    dtypes: tuple[str, ...] = ("float32",)  # each one of float32, bfloat16, float16, autocast (to bfloat16)
    # each one of eager, compile, deploy, deploy+compile, onnxruntime, openvino; or MODE/BACKEND. timm's networks
    # have no deployed form: they are eager or compiled, and reparameterised if they have such a form (RepViT, …)
    modes: tuple[str, ...] = ("eager", "deploy", "deploy+compile")
    backends: tuple[str, ...] = ("auto",)  # implementations of attention in RMT networks
    tolerances: tuple[float, ...] = (0.0,)  # of windowed attention in the deployed form; 0 is exact
    steps: tuple[str, ...] = ("forward",)  # each forward, or train: forward pass, loss and backward pass
    device: str = "cpu"  # one of cpu, cuda, cuda:NUMBER, mps
    memory_format: str = "contiguous"  # one of contiguous, channels_last
    rounds: int = 7  # each measures every case once, in random order
    seconds: float = 0.2  # time per case and round: short steps are repeated
    memory: bool = True  # measure peak memory (not known on mps)
    tf32: bool = False  # CUDA: TensorFloat-32 in float32 matrix products
    threads: int = 0  # CPU threads; 0 is PyTorch's default
    seed: int = 0  # of weights and of the order of cases
    reference: str = ""  # measure the networks one after another, each beside this one; a repeated call continues


_AXES = ("models", "image_sizes", "batches", "dtypes", "modes", "backends", "tolerances", "steps")


def list_cases(options: Options, ours: frozenset[str]) -> list[Case]:
    """Return the cases of a run.

    Args:
        ours: names of the RMT networks. Others have no deployed form, backends or windows, so their duplicates
            are merged.
    Raises:
        RMTError: an unknown word.
    """
    from rmt.ops import BACKENDS  # imports torch, and this module makes the help of `rmt bench`

    _check_numbers(options)
    modes = tuple(mode.partition("/")[0] for mode in options.modes)
    for option, words, known in (
        (
            "backends",
            (*options.backends, *(mode.partition("/")[2] or "auto" for mode in options.modes)),
            ("auto", *BACKENDS),
        ),
        ("modes", tuple(mode.removesuffix("+graph") for mode in modes), MODES),
        ("steps", options.steps, STEPS),
        ("dtypes", options.dtypes, DTYPES),
        ("memory-format", (options.memory_format,), MEMORY_FORMATS),
    ):
        for word in words:
            if word not in known:
                raise RMTError(f"--{option}: {word!r} is not one of {', '.join(known)}")
    if any(mode.endswith("+graph") for mode in modes) and not options.device.startswith("cuda"):
        raise RMTError(f"a mode with +graph is for CUDA, and the device is {options.device}")
    cases: dict[Case, None] = {}  # an ordered set
    for values in itertools.product(*(getattr(options, axis) for axis in _AXES)):
        model, size, batch, dtype, mode, backend, tolerance, step = values
        mode, _, own_backend = mode.partition("/")
        deployed = mode.startswith("deploy")
        if (deployed and step == "train") or (tolerance and not deployed):
            continue  # the deployed form has no gradients; windows are an option of it
        if mode in RUNTIMES and (step == "train" or dtype != "float32" or options.device != "cpu"):
            continue
        if model not in ours:
            mode = mode.replace("deploy+compile", "compile").replace("deploy", "eager")
            own_backend, tolerance = "auto", 0.0
        cases[Case(model, *_parse_size(size, model), batch, dtype, mode, own_backend or backend, tolerance, step)] = (
            None
        )
    if not cases:
        raise RMTError("no case is possible: deployed and exported networks do not train; runtimes need float32, cpu")
    return list(cases)


def _check_numbers(options: Options) -> None:
    """Raise RMTError for a number that no run can have."""
    if min(options.batches, default=0) < 1 or options.rounds < 1:
        raise RMTError("--batches and --rounds must be at least 1")
    if options.seconds < 0 or options.threads < 0 or min(options.tolerances, default=0.0) < 0:
        raise RMTError("--seconds, --threads and --tolerances must not be negative")


def _parse_size(text: str, model: str) -> tuple[int, int]:
    """Parse 224, 800x1333 or published into (height, width)."""
    if text == "published":
        from rmt.benchmark.published import PUBLISHED  # imports torch, and this module makes the help of `rmt bench`

        return (PUBLISHED[model].side,) * 2 if model in PUBLISHED else (224, 224)
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width or height)
    except ValueError:
        raise RMTError(f"{text!r} is neither pixels a side nor HEIGHTxWIDTH, nor published") from None
    if min(size) < 1:
        raise RMTError(f"an image of {text} pixels is empty")
    return size
