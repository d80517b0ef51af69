"""COCO-format data."""
