"""Dense label maps for token labelling."""
