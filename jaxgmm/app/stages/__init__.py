"""The stages of a run, one a table of the config."""
