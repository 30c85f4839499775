"""The finished project and the logged model of the registry's tests."""

from tests.registry.conftest import (  # noqa: F401
    change_params,
    drawable,
    drawable_template,
    empty_store,
    params,
    project,
    project_template,
    store,
)
