"""Semantic segmentation: Semantic FPN, UPerNet, inference with sliding windows."""
