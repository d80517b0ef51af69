"""Manhattan attention and the linear layer by PyTorch's own operators: exact, on any device."""
