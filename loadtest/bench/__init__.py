"""`make bench`: the rows of DESIGN.md's table that exist, with their anchors, in one run."""
