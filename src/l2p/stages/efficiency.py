"""Stage `efficiency`: time and memory of both models -> reports/efficiency.json."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.evaluation.efficiency import measure_efficiency
from l2p.files import write_json


def run(params: Params) -> None:
    """Measure source and pixel model at every size of `efficiency.resolutions_px`."""
    settings = params.efficiency
    measured = measure_efficiency(
        Layout.source,
        Layout.pixel,
        resolutions_px=settings.resolutions_px,
        num_steps=settings.num_steps,
        repeats=settings.repeats,
        dtype=params.sampling.precision,
    )
    write_json(Layout.efficiency, measured)
    for row in measured["rows"]:
        decode = "" if row["decode_ms"] is None else f" + decode {row['decode_ms']:.1f} ms"
        print(f"{row['resolution_px']:>5} px {row['model']:<6} {row['denoise_step_ms']:.1f} ms/step{decode}")
