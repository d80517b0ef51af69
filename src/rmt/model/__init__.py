"""The network (`rmt.py`), its named variants, and its weights on disk. On torch, timm, safetensors and `rmt.ops`."""

from rmt.model.checkpoints import (
    describe_weights,
    load_checkpoint,
    load_official,
    read_metadata,
    resolve_checkpoint,
    save_checkpoint,
)
from rmt.model.cost import count_macs
from rmt.model.deploy import deploy
from rmt.model.rebuild import load_model
from rmt.model.rmt import RMT, ManhattanSelfAttention
from rmt.model.variants import MAX_DROP_PATH, create_model, list_models

__all__ = [
    "MAX_DROP_PATH",
    "RMT",
    "ManhattanSelfAttention",
    "count_macs",
    "create_model",
    "deploy",
    "describe_weights",
    "list_models",
    "load_checkpoint",
    "load_model",
    "load_official",
    "read_metadata",
    "resolve_checkpoint",
    "save_checkpoint",
]
