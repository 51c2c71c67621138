"""Inference on one version: Predict, Classify, Regress, MultiInference (contract 7)."""
