"""`python -m qgraph` is the command line."""

from qgraph.cli.main import main

main()
