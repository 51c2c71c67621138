"""Sessions that merge concurrent runs into one (contract 10)."""
