"""Datasets as people have them, packed into WebDataset shards with class names and truth."""

from pipeline.pack.pack_dataset import pack
from pipeline.pack.registry import SOURCES

__all__ = ["SOURCES", "pack"]
