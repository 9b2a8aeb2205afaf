"""From shards of images to an atlas of attribution maps, and from the atlas to labels and numbers."""
