"""Figures as plotly dictionaries, and the data they draw."""
