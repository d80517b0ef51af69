"""C++ kernels for attention and depthwise convolutions on a CPU, compiled at first use (`build.py`)."""
