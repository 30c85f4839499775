import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l2p.config import Params, load_params
from l2p.errors import RegistryError
from l2p.registry import promotion
from l2p.registry.store import Store
from l2p.registry.versions import (
    CANDIDATE,
    CHAMPION,
    DELTA_ARTIFACT,
    PREVIOUS,
    SCORES_TAG,
    ModelRegistry,
    ModelVersion,
)
from tests.conftest import ROOT
from tests.registry.conftest import Drawable

NAME = "shapes-pixel"


@pytest.fixture
def registry(store: Store) -> ModelRegistry:
    return ModelRegistry(store.tracking_uri)


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def add(
    store: Store,
    registry: ModelRegistry,
    *,
    geneval: float = 0.95,
    dpg: float = 1.0,
    source: str | None = None,
    **tags: str,
) -> ModelVersion:
    run_id = store.create_run("test", {})
    scores = {
        "geneval": {"source": 0.9, "pixel": 0.9, "retention": geneval, "interval": [0.9, 1.0]},
        "dpg": {"source": 90, "pixel": 90, "retention": dpg, "interval": [0.9, 1.0]},
    }
    described = {SCORES_TAG: json.dumps(scores)} | tags
    source = source or f"runs:/{run_id}/pixel"
    return registry.create(NAME, source=source, run_id=run_id, tags=described, description="A card.")


def aliases(registry: ModelRegistry) -> dict[int, tuple[str, ...]]:
    return {version.version: version.aliases for version in registry.all(NAME) if version.aliases}


def test_versions_are_listed_newest_first_with_their_tags(store: Store, registry: ModelRegistry) -> None:
    assert registry.all(NAME) == []
    add(store, registry, colour="red")
    add(store, registry, colour="blue")
    assert [(version.version, version.tags["colour"]) for version in registry.all(NAME)] == [(2, "blue"), (1, "red")]


def test_a_version_is_found_by_all_of_its_tags(store: Store, registry: ModelRegistry) -> None:
    first = add(store, registry, weights="w", root="r")
    add(store, registry, weights="w", root="other")
    assert registry.find(NAME, {"weights": "w", "root": "r"}) == first
    assert registry.find(NAME, {"weights": "w", "root": "none"}) is None


def test_an_alias_moves_from_version_to_version(store: Store, registry: ModelRegistry) -> None:
    for version in (add(store, registry), add(store, registry)):
        registry.set_alias(version, CANDIDATE)
    assert aliases(registry) == {2: (CANDIDATE,)}


def test_a_new_champion_makes_the_old_one_previous(store: Store, registry: ModelRegistry) -> None:
    first, second = add(store, registry), add(store, registry)
    registry.make_champion(first)
    registry.make_champion(first)
    assert aliases(registry) == {1: (CHAMPION,)}
    registry.make_champion(second)
    assert aliases(registry) == {1: (PREVIOUS,), 2: (CHAMPION,)}


def test_references_are_an_alias_or_a_version(store: Store, registry: ModelRegistry) -> None:
    first, _ = add(store, registry), add(store, registry)
    registry.set_alias(first, CANDIDATE)
    assert registry.resolve(f"{NAME}@{CANDIDATE}").version == 1
    assert registry.resolve(f"{NAME}/2").version == 2


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (NAME, "expected NAME@ALIAS or NAME/VERSION"),
        (f"{NAME}@", "expected NAME@ALIAS or NAME/VERSION"),
        ("@champion", "expected NAME@ALIAS or NAME/VERSION"),
        (f"{NAME}/x", "expected NAME@ALIAS or NAME/VERSION"),
        (f"{NAME}@champion", "not registered; shapes-pixel has versions 1 to 1, aliases candidate"),
        (f"{NAME}/7", "not registered; shapes-pixel has versions 1 to 1, aliases candidate"),
        ("other@champion", "no model 'other'"),
    ],
)
def test_a_reference_that_names_nothing_says_what_there_is(
    store: Store, registry: ModelRegistry, reference: str, message: str
) -> None:
    registry.set_alias(add(store, registry), CANDIDATE)
    with pytest.raises(RegistryError, match=message):
        registry.resolve(reference)


def test_promotion_goes_through_the_gate(drawable: Drawable, params: Params) -> None:
    store = Store("sqlite:///mlflow.db", "tests")
    registry = ModelRegistry(store.tracking_uri)
    add(store, registry, geneval=0.95, source=drawable.source, **drawable.tags)
    add(store, registry, geneval=0.90, source=drawable.source, **drawable.tags)
    promoted = promotion.promote(params, NAME, 1)
    assert promoted.champion.version == 1
    with pytest.raises(RegistryError, match=r"shapes-pixel/2: not promoted\. GenEval retention 0\.900 is below"):
        promotion.promote(params, NAME, 2)
    assert aliases(registry) == {1: (CHAMPION,)}


def test_a_version_that_falls_behind_the_champion_is_not_promoted(
    store: Store, registry: ModelRegistry, params: Params
) -> None:
    registry.make_champion(add(store, registry, geneval=0.97))
    add(store, registry, geneval=0.96)
    with pytest.raises(RegistryError, match=r"falls behind the champion's 0\.970"):
        promotion.promote(params, NAME, 2)


def test_rollback_exchanges_champion_and_previous(drawable: Drawable, params: Params) -> None:
    store = Store("sqlite:///mlflow.db", "tests")
    registry = ModelRegistry(store.tracking_uri)
    registry.make_champion(add(store, registry, source=drawable.source, **drawable.tags))
    with pytest.raises(RegistryError, match="previous: not registered"):
        promotion.rollback(params, NAME)
    registry.make_champion(add(store, registry, source=drawable.source, **drawable.tags))
    assert promotion.rollback(params, NAME).champion.version == 1
    assert aliases(registry) == {1: (CHAMPION,), 2: (PREVIOUS,)}


def test_a_version_that_l2p_did_not_register_cannot_be_promoted(
    store: Store, registry: ModelRegistry, params: Params
) -> None:
    run_id = store.create_run("by hand", {})
    registry.create(NAME, source=f"runs:/{run_id}/pixel", run_id=run_id, tags={}, description="")
    with pytest.raises(RegistryError, match="has no scores"):
        promotion.promote(params, NAME, 1)


def test_a_version_that_does_not_load_and_draw_gets_no_alias(drawable: Drawable, params: Params) -> None:
    store = Store("sqlite:///mlflow.db", "tests")
    registry = ModelRegistry(store.tracking_uri)
    model = registry.download_model_of(drawable.source)
    broken = store.client.create_logged_model(store.experiment_id, name="broken")
    place = Path(broken.artifact_location)
    shutil.copytree(model, place)
    (place / DELTA_ARTIFACT / "delta.safetensors").write_bytes(b"no weights")
    version = add(store, registry, source=f"models:/{broken.model_id}", **drawable.tags)
    registry.set_alias(add(store, registry, source=drawable.source, **drawable.tags), CHAMPION)
    registry.set_alias(version, PREVIOUS)
    for attempt in (lambda: promotion.promote(params, NAME, 1), lambda: promotion.rollback(params, NAME)):
        with pytest.raises(RegistryError, match=f"{NAME}/1: does not load and draw"):
            attempt()
    assert aliases(registry) == {1: (PREVIOUS,), 2: (CHAMPION,)}


def test_a_second_process_that_was_faster_with_the_name_is_no_error(store: Store, registry: ModelRegistry) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda _: add(store, ModelRegistry(store.tracking_uri)), range(4)))
    assert sorted(version.version for version in versions) == [1, 2, 3, 4]
