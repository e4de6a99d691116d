"""The version of the package: a string that every module may import."""

__version__ = "0.1.0"
