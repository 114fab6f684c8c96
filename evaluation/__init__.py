"""How good a model is: loading it, its loss per dataset, its benchmark scores, and the record of every measurement."""
