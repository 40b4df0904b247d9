"""A run in its workdir: train and resume, checkpoints, logs, the report, import and export."""
