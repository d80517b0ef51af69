"""Random draws as a function of (seed, step): none depends on an earlier one, so a resumed run repeats them.

Lightning saves no random state. Rather than save one, every training step seeds the generators that drop path, Mixup
and CutMix draw from; the loader does the same for order and augmentation (`rmt.data.loader`).
"""

import random

import numpy as np
import torch


def seed_everything(*words: int) -> None:
    """Seeds Python's, numpy's and torch's global generators from a few integers, e.g. (seed, step, rank)."""
    state = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002 - timm's Mixup draws from the global generator
    torch.manual_seed(int(state[2]))
