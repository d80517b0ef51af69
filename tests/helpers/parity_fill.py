"""Deterministic values for a checkpoint, from its parameter names and shapes alone.

Both sides of a parity check call `filled_state(manifest)`; so no weight file has to travel.
Float32 throughout; depends only on NumPy's PCG64 stream, which NumPy keeps stable.
"""

import zlib

import numpy as np


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of one tensor. Scales keep activations of order one through the whole network."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return (1.0 + 0.2 * np.abs(z)).astype(np.float32)
    if name.endswith("running_mean"):
        return (0.1 * z).astype(np.float32)
    if "gamma_" in name:  # layer scale
        return (0.2 + 0.1 * z).astype(np.float32)
    if len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        return (0.5 * z * fan_in**-0.5).astype(np.float32)
    if name.endswith("bias"):
        return (0.1 * z).astype(np.float32)
    return (1.0 + 0.1 * z).astype(np.float32)


def filled_state(manifest: dict[str, list[int]]) -> dict[str, np.ndarray]:
    return {name: fill(name, tuple(shape)) for name, shape in manifest.items()}


def image(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth, non-symmetric test image batch, (B, 3, H, W) float32."""
    rng = np.random.Generator(np.random.PCG64(seed))
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    out = np.empty((batch, 3, height, width), np.float32)
    for b in range(batch):
        for c in range(3):
            f = rng.uniform(1, 9, size=4).astype(np.float32)
            out[b, c] = np.sin(f[0] * x + f[1] * y) + np.cos(f[2] * x * y + f[3])
    out += 0.1 * rng.standard_normal(out.shape, dtype=np.float32)
    return out
