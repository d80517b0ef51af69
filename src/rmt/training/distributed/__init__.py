"""Several processes, one per device."""
