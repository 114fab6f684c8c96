"""Distribution vectors as influence: whom each helps, and which examples oppose their own."""
