"""`python -m spade_xai.attribution` prints the table of all saliency methods that the documentation site has."""

from spade_xai.attribution.methods import table

print(table())
