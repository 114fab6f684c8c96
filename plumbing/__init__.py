"""What every package needs and no library has: atomic files, strict YAML, meters, suggestions."""
