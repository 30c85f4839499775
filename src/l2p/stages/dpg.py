"""Stage `dpg`: draw the DPG-Bench prompts with one model, ask the questions, write reports/dpg/{source,pixel}/."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.evaluation.benchmark_data import load_dpg
from l2p.evaluation.runs import Run, run_dpg
from l2p.evaluation.subject import ModelName, open_subject


def run(params: Params, model: ModelName) -> None:
    """Score `model`."""
    subject, scratch = open_subject(model, params), Layout.benchmarks / "dpg" / model
    data = load_dpg(params.dpg.data, scratch)
    place = Run(Layout.dpg / model, scratch / "judgements.jsonl", params.evaluation, params.sampling.batch_size)
    print(f"DPG-Bench {model}: {run_dpg(subject, data, params.dpg, place).told}")
