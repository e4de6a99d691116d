"""`python -m jaxgmm` is the command line."""

from jaxgmm.cli import main

main()
