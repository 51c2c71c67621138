"""Which versions there are, which should answer, and what states they went through (contract 3 to 6)."""
