"""Relation files, and drafts of them from a language model; for everything but `roc.support` and the model."""
