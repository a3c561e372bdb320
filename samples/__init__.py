"""Rows of the schema to samples and batches; for evaluation, training, publishing, studies and the programs."""
