"""Whose truth it is: a picture of the truth is one sample's, or a figure would count it twice."""

from pipeline.truth.truth import Truth, Truths
from schemas.errors import UsageError


class Claims:
    """Truths that remember by which sample they were asked for.

    Samples of one shard with one key are one sample: all but the first have the status ``duplicate_key``, and no maps.
    """

    def __init__(self, truths: Truths) -> None:
        self._truths = truths
        self._owners: dict[str, tuple[str, str]] = {}

    def of(self, shard: str, key: str) -> Truth | None:
        """The truth of a sample; None where there is none.

        Raises:
            UsageError: it is that of another sample too; see also ``Truths.of``.
        """
        truth = self._truths.of(key)
        if truth is None:
            return None
        first = self._owners.setdefault(truth.key, (shard, key))
        if first != (shard, key):
            both = f"{key} in {shard} and {first[1]} in {first[0]}"
            raise UsageError(
                f"{self._truths.name}: {truth.key} would be the truth of {both}; take one sample away, or name "
                "pictures in the truth by their whole keys"
            )
        return truth
