"""Training of learned attribution methods: Vision DiffMask gates, patch-mask fine-tuning."""
