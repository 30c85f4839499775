"""Stage `geneval`: draw the GenEval prompts with one model, judge the images, write reports/geneval/{source,pixel}/."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.evaluation.benchmark_data import load_geneval
from l2p.evaluation.runs import Run, run_geneval
from l2p.evaluation.subject import ModelName, open_subject


def run(params: Params, model: ModelName) -> None:
    """Score `model`."""
    subject, scratch = open_subject(model, params), Layout.benchmarks / "geneval" / model
    data = load_geneval(params.geneval.data, scratch)
    place = Run(Layout.geneval / model, scratch / "judgements.jsonl", params.evaluation, params.sampling.batch_size)
    print(f"GenEval {model}: {run_geneval(subject, data, params.geneval, place).told}")
