"""Which examples to train on: LESS and the methods it is compared with."""
