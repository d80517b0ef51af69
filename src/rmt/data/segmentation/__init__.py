"""Images with masks for semantic segmentation."""
