"""Check of class names that a user gives against those that are known."""

from collections.abc import Sequence

from schemas.errors import UsageError


def check_class_names(names: Sequence[str], own: Sequence[str], classes: int, of: str) -> None:
    """Make sure that class names can be those of the classes of a network, in its order.

    Args:
        names: by class id, as given; empty is none.
        own: names of the same classes as far as they are known; empty where they are not.
        classes: number of classes.
        of: where the classes are, for the message.

    Raises:
        UsageError: there are not as many names as classes, or they are the known ones in another order.
    """
    if names and len(names) != classes:
        raise UsageError(f"{of}: has {classes} classes, not the {len(names)} that are named")
    if sorted(names) == sorted(own) and (moved := [pair for pair in enumerate(own) if names[pair[0]] != pair[1]]):
        class_id, name = moved[0]
        raise UsageError(f"{of}: class {class_id} is {name}, and {names[class_id]} in --classes; correct the order")
