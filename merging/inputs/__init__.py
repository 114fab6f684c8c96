"""What a merge reads, opened lazily: checkpoints, vectors, adapters, statistics, vocabularies, the model hub."""
