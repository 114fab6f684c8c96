"""Trains checkpoints and LoRA adapters on examples, by plan files or one stage at a time.

Imports corpus. transformers' trainer, peft and accelerate are reached through run/finetune.py only.
"""
