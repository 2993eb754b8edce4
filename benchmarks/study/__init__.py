"""The study behind the default recipe: which tokens have to be pushed? (docs/attribution.md)

    python -m benchmarks.study benchmarks/study/dev.toml [more.toml] --out WORK [--jobs 2]   runs what is not finished
    python -m benchmarks.study.tables                                                        writes the tables and plots

Every step is a real command, run inside a worker process. A finished step is kept, a killed one is taken up again: give
the same command again. The results of a study go to benchmarks/study/results/NAME.parquet, a row a run.
"""
