"""Turns a GGUF file into a folder of safetensors that can be a base or a checkpoint."""
