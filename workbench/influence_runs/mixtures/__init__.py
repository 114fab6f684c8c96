"""From ω to mixtures of data and back, and mixtures tried on merged models before training."""
