"""Attribution maps of vision transformers: read → explain → store → label → score, metrics, audit."""

from importlib.util import find_spec
from pathlib import Path

_INSTALLED = Path(__file__).resolve().parents[1]


def _refuse_hidden_packages() -> None:
    """Refuse to start where a user's module hides a package that this one is installed with.

    Raises:
        ImportError: ``import schemas`` or ``import jobs`` finds another module first.
    """
    for name in ("schemas", "jobs"):
        spec = find_spec(name)
        locations = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
        path = next((Path(location).resolve() for location in locations if location), None)
        if path is None or not path.is_relative_to(_INSTALLED / name):
            raise ImportError(
                f"{path or name}: hides the package {name!r} of vit-atlas in {_INSTALLED}; "
                f"rename it, or start Python where it is not on sys.path"
            )


_refuse_hidden_packages()
