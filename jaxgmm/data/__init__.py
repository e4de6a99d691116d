"""Where rows come from."""

from jaxgmm.data.pieces import Pieces
from jaxgmm.data.source import ArraySource, Source, as_source, fingerprint

__all__ = ["ArraySource", "Pieces", "Source", "as_source", "fingerprint"]
