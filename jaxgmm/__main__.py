"""`python -m jaxgmm` is the command line."""

from jaxgmm.app.cli import main

main()
