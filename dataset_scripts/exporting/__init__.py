"""Rows to a folder of Parquet files with a card, and to the Hub; for the builders, generators and `publish`."""
