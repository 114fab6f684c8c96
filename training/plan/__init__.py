"""Training plans: several stages in one YAML file, their cost in advance, and their execution."""
