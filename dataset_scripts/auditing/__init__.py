"""What gives a relation away: what could be read, how well a trivial predictor does with it, and how to say so."""
