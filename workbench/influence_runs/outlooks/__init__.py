"""What a question about data will cost: examples, tokens, disk and seconds of each part."""
