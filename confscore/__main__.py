"""``python -m confscore`` is the command line."""

from confscore.cli import main

main()
