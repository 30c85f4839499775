"""Stage `dpg`: draw the DPG-Bench prompts with one model, ask the questions, write reports/dpg/{source,pixel}/."""

from __future__ import annotations

from dataclasses import replace

from l2p.config import Layout, Params
from l2p.evaluation import dpg
from l2p.evaluation.benchmark_data import load_dpg
from l2p.evaluation.images import Grid, dpg_files, draw_missing, remove_leftovers
from l2p.evaluation.judgements import JudgementStore, check_failures
from l2p.evaluation.judges import get_question_judge
from l2p.evaluation.subject import ModelName, open_subject


def run(params: Params, model: ModelName) -> None:
    """Score `model`."""
    settings, subject = params.dpg, open_subject(model, params)
    folder, scratch = Layout.dpg / model, Layout.benchmarks / "dpg" / model
    data = load_dpg(settings.data, scratch)
    judge = get_question_judge(settings.judge, device=subject.device)
    dpg.try_judge(data, judge)
    (folder / dpg.SCORES).unlink(missing_ok=True)

    prompts, count = {item.item_id: item.prompt for item in data.items}, settings.images_per_prompt
    files = dpg_files(folder / dpg.IMAGES, prompts, images_per_prompt=count, first_seed=settings.seed)
    title, batch_size = f"DPG-Bench, {model}", params.sampling.batch_size
    drawn = draw_missing(files, subject.painter(), subject.drawing_card(), batch_size=batch_size, title=title)
    remove_leftovers(folder / dpg.IMAGES, files)

    store, grid = JudgementStore(scratch / "judgements.jsonl"), Grid(count, *subject.size_px)
    tiles, failures = dpg.answer_tiles(data, folder, grid=grid, judge=judge, store=store)
    result = dpg.score_answers(data, tiles, settings.protocol)
    answers = dpg.write_answers(result, folder)
    check_failures(failures, images=len(tiles), max_share=settings.max_failed_share, results=answers)
    card = subject.score_card(data, settings, judge, protocol=settings.protocol)
    scores = dpg.write_scores(result, folder, replace(card, failures=failures, dropped=result.dropped))
    low, high = scores["interval"]
    print(
        f"DPG-Bench {model}: {scores['overall']:.1f} ({low:.1f} .. {high:.1f}), {len(tiles)} images, "
        f"{drawn} of them drawn now, {len(failures)} failed"
    )
