"""What the generated picture-text sets are drawn from; for `synthetic` and `scenes` in `roc.dataset_scripts`."""
