"""What leaves a run for other programs: one file a format. Library code: no arguments, no prints."""
