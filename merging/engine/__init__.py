"""The one loop: a recipe becomes tasks, tasks become pieces, and each piece of the merge is computed once."""
