"""Many runs of one experiment with other settings: grids and random draws, search, and their pages."""
