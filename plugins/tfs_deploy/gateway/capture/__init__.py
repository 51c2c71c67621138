"""Samples of the traffic, kept as PredictionLog files: what golden requests and warm-up requests are made from."""
