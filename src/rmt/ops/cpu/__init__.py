"""C++ kernels for attention, depthwise convolutions and LayerNorm on a CPU, compiled at first use (`build.py`)."""
