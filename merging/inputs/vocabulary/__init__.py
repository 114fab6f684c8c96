"""Models whose vocabularies differ: which rows of embeddings and heads belong together, by their tokens' text."""
