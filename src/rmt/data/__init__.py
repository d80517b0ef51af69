"""Datasets, transforms and batches for training and evaluation."""
