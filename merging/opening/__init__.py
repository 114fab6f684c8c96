"""From a recipe to its base and its vectors, ready to be merged; slices are restacked here."""
