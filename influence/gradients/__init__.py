"""Gradients of single examples and of whole domains, and the step Adam would take with them."""
