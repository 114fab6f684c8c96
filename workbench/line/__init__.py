"""The live line: the page sends whole states, the server streams what follows from each."""
