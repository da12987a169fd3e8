"""`python -m relay` is the command `relay`, for a folder that is not installed."""

from relay.cli import main

main()
