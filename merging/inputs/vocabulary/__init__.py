"""Merging models whose vocabularies differ, by matching rows through their tokens' text."""
