"""The trainer that all tasks share, on Lightning. It adds run folders, checkpoints that survive a kill, and reports."""
