"""A model in memory that always equals its recipe, and adapters added at its layers while a slider moves."""
