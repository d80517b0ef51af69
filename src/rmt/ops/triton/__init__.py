"""Triton kernels for NVIDIA GPUs: attention, depthwise convolutions and LayerNorm. See `backend.py`.

Without a GPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), which is how they are tested.
"""
