"""Owns writing a page: a template with its style inside, filled, as one file that loads nothing from a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from l2p.files import atomic_path


def write_page(
    package: str, template: str, content: Mapping[str, Any], path: Path, **filters: Callable[..., object]
) -> None:
    """Fill a template and write it.

    Args:
        package: whose folder `templates` has the template; it may include `base.css`, the style that all pages share.
        template: name of its file.
        content: what it shows. Text is escaped; a name that the template uses and that is missing is an error.
        path: of the page.
        filters: that the template uses, by name.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("l2p")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(filters)
    page = environment.get_template(template).render(**content)
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")
