"""One post to ranked relations, and its picture; for evaluation, training and what stands above them."""
