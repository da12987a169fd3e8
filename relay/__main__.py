"""`python -m relay`: the same as the command `relay`, for where only the folder is there."""

from relay.cli import main

main()
