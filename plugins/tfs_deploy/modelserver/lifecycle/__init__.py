"""The versions on disk, the aspired ones, and the states of each (contract 3 to 6)."""
