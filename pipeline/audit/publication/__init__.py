"""What makes an audit fit to publish: dataset card, Croissant, manifest, lineage, environment, verification."""
