"""One adapter per source family, found by the source's transformer class."""

from l2p.errors import SourceError
from l2p.models.adapters.aura_flow import AuraFlowAdapter
from l2p.models.adapters.base import Adapter
from l2p.models.adapters.chroma import ChromaAdapter
from l2p.models.adapters.cogview4 import CogView4Adapter
from l2p.models.adapters.flux import FluxAdapter
from l2p.models.adapters.flux2 import Flux2Adapter
from l2p.models.adapters.lumina2 import Lumina2Adapter
from l2p.models.adapters.qwen_image import QwenImageAdapter
from l2p.models.adapters.sana import SanaAdapter
from l2p.models.adapters.sd3 import SD3Adapter
from l2p.models.adapters.z_image import ZImageAdapter

_FAMILIES = (
    ZImageAdapter,
    FluxAdapter,
    Flux2Adapter,
    SD3Adapter,
    QwenImageAdapter,
    Lumina2Adapter,
    SanaAdapter,
    AuraFlowAdapter,
    CogView4Adapter,
    ChromaAdapter,
)
ADAPTERS: dict[str, Adapter] = {family.transformer_class: family() for family in _FAMILIES}

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
