"""The loss as a function of ω: its gradient, and models of it that predict losses."""
