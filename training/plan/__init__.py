"""Plan files: several stages of training, what they take, and how they are carried out."""
