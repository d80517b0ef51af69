"""A trained network behind HTTP: requests, batches, limits, and a page that shows the answers."""
