"""Composes a model in memory as its recipe says, and previews slider moves by mounted adapters."""
