"""Sessions that join concurrent runs into one (contract 10)."""
