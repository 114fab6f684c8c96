"""The order of a training run's examples, and CommonIT's steps that come from one group each."""
