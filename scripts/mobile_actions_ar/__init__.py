"""Generator of the embedded Arabic data set "mobile actions"."""
