"""Images with a mask each."""
