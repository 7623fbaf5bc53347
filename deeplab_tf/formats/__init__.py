"""What lies in files, and nothing else."""
