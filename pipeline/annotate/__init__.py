"""A static page on which a person draws boxes on images of an atlas."""

from pipeline.annotate.write_page import write_page

__all__ = ["write_page"]
