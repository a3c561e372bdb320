"""Several runs compared: variants over seeds (`python -m roc.studies`), unseen relations, unseen data sets."""
