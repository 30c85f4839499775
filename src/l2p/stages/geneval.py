"""Stage `geneval`: draw the GenEval prompts with one model, judge the images, write reports/geneval/{source,pixel}/."""

from __future__ import annotations

from dataclasses import replace

from l2p.config import Layout, Params
from l2p.evaluation import geneval
from l2p.evaluation.benchmark_data import load_geneval
from l2p.evaluation.images import draw_missing, geneval_files, remove_leftovers
from l2p.evaluation.judgements import JudgementStore, check_failures
from l2p.evaluation.judges import get_object_judge
from l2p.evaluation.subject import ModelName, open_subject


def run(params: Params, model: ModelName) -> None:
    """Score `model`."""
    settings, subject = params.geneval, open_subject(model, params)
    folder, scratch = Layout.geneval / model, Layout.benchmarks / "geneval" / model
    data = load_geneval(settings.data, scratch)
    judge = get_object_judge(settings.judge, device=subject.device)
    geneval.check_vocabulary(data, judge)
    (folder / geneval.SCORES).unlink(missing_ok=True)

    prompts, count = [prompt.prompt for prompt in data.prompts], settings.images_per_prompt
    files = geneval_files(folder / geneval.IMAGES, prompts, images_per_prompt=count, first_seed=settings.seed)
    title, batch_size = f"GenEval, {model}", params.sampling.batch_size
    drawn = draw_missing(files, subject.painter(), subject.drawing_card(), batch_size=batch_size, title=title)
    remove_leftovers(folder / geneval.IMAGES, files)
    geneval.write_metadata(data, folder)

    store = JudgementStore(scratch / "judgements.jsonl")
    rows, failures = geneval.judge_images(data, folder, images_per_prompt=count, judge=judge, store=store)
    results = geneval.write_results(rows, folder)
    check_failures(failures, images=len(rows), max_share=settings.max_failed_share, results=results)
    card = subject.score_card(data, settings, judge, protocol=geneval.PROTOCOL)
    scores = geneval.write_scores(rows, folder, replace(card, failures=failures))
    low, high = scores["interval"]
    print(
        f"GenEval {model}: {scores['overall']:.3f} ({low:.3f} .. {high:.3f}), {len(rows)} images, "
        f"{drawn} of them drawn now, {len(failures)} failed"
    )
