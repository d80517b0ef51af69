"""Manhattan attention by PyTorch's own means: exact, any device."""
