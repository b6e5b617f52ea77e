"""The commands of `luss`, one module each. A module has what `Command` says; heavy libraries are imported inside `main`, so that a mistake in
the command line or the settings is told at once."""
