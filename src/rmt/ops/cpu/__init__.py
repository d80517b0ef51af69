"""C++ kernels for attention and depthwise convolutions on a CPU in float32, compiled at first use (`build.py`)."""
