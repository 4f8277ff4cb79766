"""`python -m rbkit`."""

from rbkit.cli import main

main()
