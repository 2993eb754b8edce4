"""Where the numbers of the learned importance come from (shared/weighting/learned.toml).

    python -m benchmarks.learning --work WORK               makes, scores and learns; writes the file, prints tables
    python -m benchmarks.learning --work WORK --check       compares the file with what is learned, prints tables
    python -m benchmarks.learning --work WORK --model NAME  the tables under another model, with the file as it is

It learns from texts whose facts are known by construction: people of the atlas in prose, in plain answers, in
documents and in three more languages, and the secrets of LUME's retain set (TU_LUME_DIR). It never learns from TOFU.
The tables are of other people, of LUME's forget set, and of rows of TOFU (TU_TOFU_DIR) on which features were chosen;
the rows that docs/attribution.md reports are not among them. What is scored is kept: the same command goes on.
"""
