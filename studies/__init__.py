"""Variants of a run compared over seeds: `python -m roc.studies STUDY.yaml`; nothing imports it."""
