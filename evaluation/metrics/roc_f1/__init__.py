"""The scores of relation extraction."""
