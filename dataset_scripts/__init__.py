"""Dataset builders: raw files of several sources to one schema, one row per pair of entities.

`roc.dataset_scripts.loading.load_dataset_splits` is the way in from Python, `python -m roc.dataset_scripts.mnre` (or
`more`, `jsonl`, `synthetic`, `scenes`, `leak_audit`, `upload`) from the command line.
"""
