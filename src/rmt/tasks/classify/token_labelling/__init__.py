"""LV-ViT's token labelling: a teacher's label maps, and training on them."""
