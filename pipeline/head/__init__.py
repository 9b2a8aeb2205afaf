"""Making of head files: classifiers out of checkpoints, of texts, and of labelled images."""
