"""Synthetic dataset with known truth, a model trained on it, and a demo of the whole pipeline."""
