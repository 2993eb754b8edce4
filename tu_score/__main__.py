"""`python -m tu_score` is `tu-score`."""

from tu_score.cli import main

if __name__ == "__main__":
    main()
