"""Pictures of what a network predicts, or of the truth."""
