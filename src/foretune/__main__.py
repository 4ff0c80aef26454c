"""`python -m foretune`."""

from foretune.cli.main import main

main()
