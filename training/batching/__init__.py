"""The order in which a training run sees its examples, and CommonIT's steps that come from one group."""
