"""`python -m tu_eval`."""

from tu_eval.cli import main

main()
