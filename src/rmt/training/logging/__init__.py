"""What a run prints, records and draws."""
