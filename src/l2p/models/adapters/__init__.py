"""One adapter per source family, found by the source's transformer class."""

from l2p.errors import SourceError
from l2p.models.adapters.base import Adapter
from l2p.models.adapters.z_image import ZImageAdapter

ADAPTERS: dict[str, Adapter] = {adapter.transformer_class: adapter for adapter in (ZImageAdapter(),)}

__all__ = ["ADAPTERS", "Adapter", "get_adapter"]


def get_adapter(transformer_class: str) -> Adapter:
    """The adapter of a transformer class.

    Raises:
        SourceError: no adapter for this class; the message lists those there are.
    """
    if transformer_class not in ADAPTERS:
        raise SourceError(
            f"transformer class {transformer_class!r} has no adapter; supported: {', '.join(sorted(ADAPTERS))}. "
            "See 'Adding a source' in CONTRIBUTING.md."
        )
    return ADAPTERS[transformer_class]
