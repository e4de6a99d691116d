"""Where rows come from."""

from jaxgmm.data.files import scan
from jaxgmm.data.pieces import Pieces
from jaxgmm.data.processes import Processes
from jaxgmm.data.source import ArraySource, Source, as_source, fingerprint

__all__ = ["ArraySource", "Pieces", "Processes", "Source", "as_source", "fingerprint", "scan"]
