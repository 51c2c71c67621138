"""What a request does with one version: Predict, Classify, Regress, MultiInference (contract 7)."""
