"""The merge methods, one file each: this folder is the list."""
