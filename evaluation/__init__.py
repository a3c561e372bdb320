"""Predictions over a split, their scores, and how far they can be trusted; for training and what stands above."""
