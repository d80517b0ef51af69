"""Speed and memory, side by side in one run. Needs torch, timm and NumPy alone; plots are drawn afterwards."""
