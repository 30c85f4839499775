"""Stage `report`: all figures of source and pixel model -> reports/index.html and reports/comparison.json."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.evaluation.comparison import compare
from l2p.evaluation.report import write_report
from l2p.files import write_json


def run(params: Params) -> None:
    """Compare both models and write the page."""
    comparison = compare()
    write_report(params, comparison)
    write_json(Layout.comparison, comparison)
    for name in ("geneval", "dpg"):
        kept = comparison[name]["retention"]
        print(f"{name} retention: {'not defined, the source scores 0' if kept is None else f'{kept:.3f}'}")
    print(f"wrote {Layout.report}")
