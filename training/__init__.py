"""A run of `train.py`, from its settings to its folder; for publishing, studies and the programs."""
