"""What Lightning lacks for us: atomic checkpoints, run folders, reports."""
