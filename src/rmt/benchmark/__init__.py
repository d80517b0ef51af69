"""Speed and memory of networks, measured side by side. Needs torch, timm and NumPy only, apart from the plots."""
