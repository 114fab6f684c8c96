"""All checkpoints and compositions side by side, with what each cost."""
