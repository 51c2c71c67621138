"""Samples of the traffic as PredictionLog files, the source of golden requests and warm-up requests."""
