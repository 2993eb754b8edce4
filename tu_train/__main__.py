"""`python -m tu_train`."""

from tu_train.cli import main

main()
