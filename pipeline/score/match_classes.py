"""Matching of the classes of a truth with those of a network, by name."""

from collections.abc import Callable, Iterable, Sequence

from schemas.errors import UsageError

_LISTED = 5
"""Class names that a message lists."""


def match_classes(
    truth_classes: Sequence[Sequence[str]],
    used: Iterable[int],
    class_names: Sequence[str],
    source: str,
    subset: bool,
    log: Callable[[str], None] = lambda line: None,
) -> dict[int, int]:
    """Return the class id in the network of each class of a truth, by its place there.

    Names are compared without case, spaces and punctuation. A name of the network may list synonyms, separated by
    commas. The first name of a class of the truth that the network has counts.

    Args:
        truth_classes: names of each class, see ``TruthSet.classes``.
        used: places of the classes that are scored.
        class_names: names of the network's classes, by class id.
        source: name of the truth, for errors.
        subset: leave out classes that the network does not have, and log how many.
        log: called with each message.

    Raises:
        UsageError: the network lacks a class or all, has several of one name, or one for several of the truth.
    """
    if not class_names:
        raise UsageError(
            f"{source}: has classes, but those of the network have no names; give them with --classes FILE"
        )
    ids_by_name: dict[str, set[int]] = {}
    for class_id, name in enumerate(class_names):
        for part in {name, *name.split(",")}:
            ids_by_name.setdefault(_normalize(part), set()).add(class_id)
    matched: dict[int, int] = {}
    places: dict[int, int] = {}
    missing = []
    for place in used:
        names = truth_classes[place]
        found = next((ids for name in names if (ids := ids_by_name.get(_normalize(name)))), None)
        if found is None:
            missing.append(names[-1])
            continue
        if len(found) > 1:
            raise UsageError(f"{source}: {names[-1]} may be any of the classes {sorted(found)[:_LISTED]}; rename them")
        (class_id,) = found
        if class_id in places:
            both = f"{truth_classes[places[class_id]][0]} and {names[0]}"
            raise UsageError(
                f"{source}: {both} are both class {class_names[class_id]}; name classes by their ids there"
            )
        matched[place] = class_id
        places[class_id] = place
    if missing and (not subset or not matched):
        names = ", ".join(sorted(missing)[:_LISTED])
        raise UsageError(
            f"{source}: the network lacks {len(missing)} of its classes ({names}); name its classes alike, or score "
            "those that both have with --subset"
        )
    if missing:
        log(f"{len(missing)} classes of {source} are not among those of the network and are left out")
    return matched


def _normalize(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
