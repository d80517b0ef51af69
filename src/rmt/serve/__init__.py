"""A trained network behind HTTP: requests, batches, limits."""
