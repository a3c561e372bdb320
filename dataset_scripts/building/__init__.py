"""What every builder of raw files is made of; for the builders in `roc.dataset_scripts`."""
