"""Owns how fast and how hungry both models are: one image at a time, denoising step, decoding and peak memory.

Each model lives in a process of its own, so that its memory is its own; the two take turns, so that whatever else the
machine does burdens both alike. Times are medians in milliseconds; memory is what a drawing needs beyond the weights.
"""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from l2p.errors import EvaluationError
from l2p.evaluation.measuring import MIB, MemoryMeter, StepClock, touch_weights
from l2p.quiet import quiet_third_parties

ModelName = Literal["source", "pixel"]
MODELS: tuple[ModelName, ...] = ("source", "pixel")
PROMPT = "a photo of a red circle"
_ANSWER_TIMEOUT_S = 600


@dataclass(frozen=True)
class Drawing:
    """One measured drawing of one image."""

    step_ms: float
    decode_ms: float
    peak_memory_mb: float | None


@dataclass(frozen=True)
class EfficiencyRow:
    """One model at one size.

    `decode_ms` is None for a pixel model, which has nothing to decode; `peak_memory_mb` where the system does not tell.
    """

    resolution_px: int
    model: ModelName
    denoise_step_ms: float
    decode_ms: float | None
    peak_memory_mb: float | None
    weights_mb: float


@dataclass(frozen=True)
class Subject:
    """What a measuring process loads: the pin of a source (a file) or the folder of a pixel model."""

    model: ModelName
    path: Path
    device: str
    dtype: str

    def load(self) -> Any:
        """The pipeline."""
        from diffusers.utils.logging import disable_progress_bar

        from l2p.models.pipeline import load_pixel_pipeline
        from l2p.models.source import SourcePin, load_source_pipeline

        quiet_third_parties()
        disable_progress_bar()  # two processes at once, and ours is the bar that counts
        if self.model == "pixel":
            return load_pixel_pipeline(self.path, device=self.device, dtype=self.dtype)
        return load_source_pipeline(SourcePin.load(self.path), device=self.device, dtype=self.dtype)


def measure_efficiency(
    source_pin: Path, pixel: Path, *, resolutions_px: tuple[int, ...], num_steps: int, repeats: int, dtype: str
) -> dict[str, Any]:
    """Time both models at each square size, batch 1, without guidance.

    Args:
        source_pin: file of the source's pin.
        pixel: folder of the pixel model.
        resolutions_px: sides of the squares.
        num_steps: denoising steps of one drawing.
        repeats: timed drawings of each model and size, after one that warms up.
        dtype: precision of both models.

    Returns:
        {"device", "dtype", "threads", "rows"}, the rows as in `EfficiencyRow`.

    Raises:
        EvaluationError: a measuring process failed.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    paths: dict[ModelName, Path] = {"source": source_pin, "pixel": pixel}
    sizes = sorted(resolutions_px)
    drawings: dict[tuple[int, ModelName], list[Drawing]] = {}
    with _workers([Subject(model, paths[model], device, dtype) for model in MODELS]) as (ask, weights_mb):
        for turn in tqdm(range(repeats + 1), desc="efficiency", unit="round", disable=None):
            for size in sizes:
                for model in MODELS:
                    drawing = ask(model, size, num_steps)
                    if turn > 0:  # the first round warms up
                        drawings.setdefault((size, model), []).append(drawing)
    rows = [_row(size, model, drawings[size, model], weights_mb[model]) for size in sizes for model in MODELS]
    return {"device": device, "dtype": dtype, "threads": torch.get_num_threads(), "rows": [asdict(row) for row in rows]}


def _row(size: int, model: ModelName, drawings: list[Drawing], weights_mb: float) -> EfficiencyRow:
    peaks = [drawing.peak_memory_mb for drawing in drawings if drawing.peak_memory_mb is not None]
    return EfficiencyRow(
        resolution_px=size,
        model=model,
        denoise_step_ms=statistics.median(drawing.step_ms for drawing in drawings),
        decode_ms=statistics.median(drawing.decode_ms for drawing in drawings) if model == "source" else None,
        peak_memory_mb=statistics.median(peaks) if peaks else None,
        weights_mb=weights_mb,
    )


Ask = Callable[[ModelName, int, int], Drawing]


@contextmanager
def _workers(subjects: list[Subject]) -> Iterator[tuple[Ask, dict[ModelName, float]]]:
    """A process per subject, both loading at once; yields how to ask for a drawing, and the weights of each in MB."""
    context = multiprocessing.get_context("spawn")
    lines: dict[ModelName, Connection] = {}
    processes = []
    for subject in subjects:
        lines[subject.model], theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(subject, theirs), daemon=True))
        processes[-1].start()
        theirs.close()

    def ask(model: ModelName, size: int, num_steps: int) -> Drawing:
        lines[model].send((size, num_steps))
        return Drawing(**_answer(model, lines[model]))

    try:
        yield ask, {model: _answer(model, line)["weights_mb"] for model, line in lines.items()}
    finally:
        for line in lines.values():
            line.close()  # a worker ends when its line does
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _answer(model: ModelName, line: Connection) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = line.recv() if line.poll(_ANSWER_TIMEOUT_S) else {"error": "no answer in 10 minutes"}
    except EOFError:
        answer = {"error": "its process ended"}
    if "error" in answer:
        raise EvaluationError(f"efficiency of the {model} model: {answer['error']}.")
    return answer


def _serve(subject: Subject, line: Connection) -> None:
    """Body of a measuring process: load, then answer every (size, steps) until the line is closed."""
    try:
        pipeline = subject.load()
        line.send({"weights_mb": touch_weights(pipeline) / MIB})
        meter = MemoryMeter(subject.device)
        while True:
            size, num_steps = line.recv()
            line.send(asdict(_draw(pipeline, size, num_steps, meter)))
    except EOFError:
        return
    except Exception as error:  # a process boundary: whatever it is, the other side must hear of it
        line.send({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})


def _draw(pipeline: Any, size: int, num_steps: int, meter: MemoryMeter) -> Drawing:
    from l2p.models.sampling import draw_images, encode_prompts

    embedding, empty = encode_prompts(pipeline, [PROMPT, ""])
    meter.start()
    with StepClock(pipeline) as clock:
        draw_images(
            pipeline, [embedding], empty=empty, size_px=(size, size), num_steps=num_steps, guidance_scale=0.0, seeds=[0]
        )
    peak = meter.peak_bytes()
    return Drawing(statistics.median(clock.step_s) * 1e3, clock.decode_s * 1e3, None if peak is None else peak / MIB)
