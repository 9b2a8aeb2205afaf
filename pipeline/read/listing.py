"""Hash of what a tar lists, which tells two tars apart without their contents."""

import hashlib


class Listing:
    """Names and sizes of the members of a tar but for its folders, in their order.

    Attributes:
        count: members so far.
    """

    def __init__(self) -> None:
        self.count, self._digest = 0, hashlib.sha256()

    def add(self, name: str, size: int) -> None:
        """Add a member.

        Args:
            name: in the tar.
            size: in bytes.
        """
        self.count += 1
        self._digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))

    def digest(self) -> str:
        """Return the first half of the SHA-256 of all members so far, in hexadecimal."""
        return self._digest.hexdigest()[:32]
