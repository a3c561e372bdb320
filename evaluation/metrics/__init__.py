"""Metrics that `evaluate.load` reads from their folders; `roc.evaluation.predictions` scores with them."""
