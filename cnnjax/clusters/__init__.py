"""Runs and sweeps as jobs of a cluster: scripts of Slurm and JobSets of Kubernetes that a person can read and submit."""
