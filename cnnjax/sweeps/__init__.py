"""Many runs of one experiment with other settings: grids and random draws, search, clusters, and their pages."""
