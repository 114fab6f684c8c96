"""One stage of training: from examples and a model to one checkpoint folder."""
