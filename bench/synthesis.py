"""How fast the stage `synthesize` draws, against a bare loop over the source's own pipeline at the same batch size.

    python -m bench.synthesis                                   # the embedded source; minutes on two cores
    python -m bench.synthesis --source Tongyi-MAI/Z-Image-Turbo --revision COMMIT --side 1024 --batch-size 8

The bare loop calls the pipeline with ready prompt embeddings and throws the pixels away; the stage also writes PNG
files and its journal. A second bare loop gives the pipeline the prompts as text, as one would without the stage
`embed`. All take turns in one run, so that they see the same machine; figures are medians, loading apart. With more
workers each has a GPU, or one thread of the CPU where there is none; the ratio is then to one such worker.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch

from l2p.config import SynthesizeParams, load_params
from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import prompt_id
from l2p.data.synthesis.crew import Crew, LocalCrew
from l2p.data.synthesis.painter import SourceSettings, default_device, device_text, environment
from l2p.data.synthesis.planning import Batch, form_batches, plan_images
from l2p.data.synthesis.processes import ProcessCrew
from l2p.data.synthesis.worker import Job
from l2p.files import write_json
from l2p.models.adapters import get_adapter
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.sampling import draw_pixels
from l2p.models.source import SourcePin, load_source_pipeline, pin_source
from l2p.quiet import quiet_third_parties
from l2p.shapes.captions import training_prompts

ROOT = Path(__file__).parents[1]
TARGET = 0.95
BARE, TEXT, STAGE = "bare loop, ready embeddings", "bare loop, text", "stage synthesize"


@dataclass(frozen=True)
class Rate:
    """How fast one way is.

    Attributes:
        name: of the way.
        images_per_s: median of the turns.
        ratio: how many times faster than another way, median over the turns.
        cpu_s_per_image: processor time, where all work is in this process; on a shared machine it is steadier.
        compared_with: name of that other way.
    """

    name: str
    images_per_s: float
    ratio: float
    cpu_s_per_image: float | None
    compared_with: str


@dataclass(frozen=True)
class Task:
    """What is drawn, and by what."""

    pin: SourcePin
    params: SynthesizeParams
    folder: Path
    batches: list[Batch]

    def job(self, threads: int | None) -> Job:
        """For a crew."""
        source = SourceSettings(self.pin, self.params.precision, self.params.shift, self.params.compile)
        return Job(source, self.folder / "corpus", self.folder / "embeddings", threads)

    @property
    def images(self) -> int:
        """In all batches."""
        return sum(len(batch.rows) for batch in self.batches)


def main() -> None:
    """Measure, print the tables, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "sources" / "shapes"), help="folder or repository id")
    parser.add_argument("--revision", help="commit of the repository")
    parser.add_argument("--side", type=int, help="height and width, px; default: params.yaml")
    parser.add_argument("--steps", type=int, help="denoising steps; default: params.yaml")
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--batches", type=int, default=4, help="batches of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to compare")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    quiet_third_parties()
    changes = {"height_px": options.side, "width_px": options.side, "num_steps": options.steps}
    changes |= {"batch_size": options.batch_size, "images_per_prompt": 1}
    own = {name: value for name, value in changes.items() if value is not None}
    params = load_params(ROOT / "params.yaml").synthesize.model_copy(update=own)
    with tempfile.TemporaryDirectory() as folder:
        task = prepare(pin_source(options.source, options.revision), params, Path(folder), options.batches)
        device = device_text(environment(default_device(), compiled=params.compile))
        print(f"\n{task.images} images a turn in batches of {options.batch_size}, {options.repeats} turns; {device}\n")
        alone = compare_with_bare(task, options.repeats)
        print_rates(alone)
        together = compare_workers(task, options.workers, options.repeats)
        print_rates(together)
    reached = next(rate.ratio for rate in alone if rate.name == STAGE)
    print(f"the stage reaches {reached:.1%} of the bare loop (target {TARGET:.0%})")
    if options.json:
        write_json(options.json, {"device": device, "rates": [asdict(rate) for rate in (*alone, *together)]})


def prepare(pin: SourcePin, params: SynthesizeParams, folder: Path, num_batches: int) -> Task:
    """Prompts of the shapes world with their embeddings, and batches."""
    texts = [prompt.text for prompt in training_prompts(params.batch_size * num_batches, random.Random(0))]
    prompts = pd.DataFrame({"prompt_id": [prompt_id(text) for text in texts], "text": texts, "style": "shapes"})
    embed_prompts(prompts, pin=pin, folder=folder / "embeddings", batch_size=64, dtype=params.precision)
    (folder / "corpus").mkdir()
    return Task(pin, params, folder, form_batches(plan_images(prompts, params, pin.digest), params.batch_size))


def compare_with_bare(task: Task, repeats: int) -> list[Rate]:
    """The stage in this process, and both bare loops."""
    pipeline = load_source_pipeline(task.pin, dtype=task.params.precision, device=default_device())
    store = EmbeddingStore(task.folder / "embeddings")
    with LocalCrew(task.job(None), default_device()) as crew:
        ways: dict[str, Callable[[], object]] = {
            BARE: lambda: _bare(pipeline, task, store),
            STAGE: lambda: list(crew.draw(task.batches)),
            TEXT: lambda: _from_text(pipeline, task),
        }
        return _rates(ways, task, repeats, compared_with=BARE, in_here=True)


def compare_workers(task: Task, counts: Sequence[int], repeats: int) -> list[Rate]:
    """Crews of processes, on a CPU of one thread each."""
    threads = None if torch.cuda.is_available() else 1
    with contextlib.ExitStack() as stack:
        ways: dict[str, Callable[[], object]] = {}
        for count in sorted({1, *counts}):
            crew: Crew = stack.enter_context(ProcessCrew(task.job(threads), count))
            ways[_crew_name(count)] = lambda crew=crew: list(crew.draw(task.batches))  # type: ignore[misc]
        return _rates(ways, task, repeats, compared_with=_crew_name(1), in_here=False)


def print_rates(rates: Sequence[Rate]) -> None:
    """One table."""
    print(f"{'':<32}{'images/s':>10}{'ratio':>8}{'CPU s/image':>13}")
    for rate in rates:
        print(f"{rate.name:<32}{rate.images_per_s:>10.2f}{rate.ratio:>8.3f}{_shown(rate.cpu_s_per_image):>13}")
    print(flush=True)


def _shown(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.4f}"


def _rates(
    ways: dict[str, Callable[[], object]], task: Task, repeats: int, *, compared_with: str, in_here: bool
) -> list[Rate]:
    for draw in ways.values():
        draw()  # loads, compiles, fills caches
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    busy: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, draw in _in_turn(ways, turn):
            start, busy_before = time.perf_counter(), time.process_time()
            draw()
            seconds[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - busy_before)
    base = seconds[compared_with]
    return [
        Rate(
            name,
            task.images / statistics.median(own),
            statistics.median(other / mine for other, mine in zip(base, own, strict=True)),
            statistics.median(busy[name]) / task.images if in_here else None,
            compared_with,
        )
        for name, own in seconds.items()
    ]


def _in_turn(ways: dict[str, Callable[[], object]], turn: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each turn begins with another one."""
    items = list(ways.items())
    yield from items[turn % len(items) :]
    yield from items[: turn % len(items)]


def _bare(pipeline: object, task: Task, store: EmbeddingStore) -> None:
    device = default_device()
    for batch in task.batches:
        found = {
            name: {key: tensor.to(device) for key, tensor in store.get(name).items()}
            for name in [EMPTY_PROMPT_ID, *(row["prompt_id"] for row in batch.rows)]
        }
        draw_pixels(
            pipeline,
            [found[row["prompt_id"]] for row in batch.rows],
            empty=found[EMPTY_PROMPT_ID],
            size_px=(task.params.height_px, task.params.width_px),
            num_steps=task.params.num_steps,
            guidance_scale=task.params.guidance_scale,
            seeds=[row["seed"] for row in batch.rows],
        )


def _from_text(pipeline: object, task: Task) -> None:
    argument = get_adapter(task.pin.transformer_class).guidance_argument
    for batch in task.batches:
        pipeline(  # type: ignore[operator]
            prompt=[row["text"] for row in batch.rows],
            height=task.params.height_px,
            width=task.params.width_px,
            num_inference_steps=task.params.num_steps,
            generator=[torch.Generator().manual_seed(row["seed"]) for row in batch.rows],
            output_type="np",
            **{argument: task.params.guidance_scale},
        )


def _crew_name(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


if __name__ == "__main__":
    main()
