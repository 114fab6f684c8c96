"""A real base without a hub: an instruction-tuned model from a Python package."""
