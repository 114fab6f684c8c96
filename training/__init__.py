"""Examples in, checkpoints out. Imports corpus; the trainer, peft and accelerate have one door, finetune."""
