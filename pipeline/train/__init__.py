"""The explainers that learn: Vision DiffMask gates, patch-mask fine-tuning."""
