"""A slider of an adapter while it is dragged: its low-rank term is added where layers are called; no weight is written."""
