"""`make bench`: every row with its goal, beside its anchors, in one run."""
