"""What every package needs and no library has: atomic files, strict YAML, a meter, suggestions, units."""
