"""A trained model on the Hub: its folder, card, check and Space; for the programs alone."""
