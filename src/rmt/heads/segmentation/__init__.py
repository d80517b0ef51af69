"""Semantic segmentation: Semantic FPN, UPerNet, inference by sliding windows."""
