"""Opens the base and the vectors that a recipe names; restacks layers if it has slices."""
