"""The resumable state of a run."""
