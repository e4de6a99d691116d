"""The command line: a run of a config, its stages, its directory and its report."""
