"""Stage `prompts`: the prompt set, from the provider that params.yaml names."""

from __future__ import annotations

from l2p.config import Layout, Params, PromptsParams
from l2p.data.prompts import REJECTED, draw_prompts, write_prompts


def run(params: Params, *, dry_run: bool = False) -> None:
    """Write `data/prompts`; a dry run only says what a language model would be asked."""
    if dry_run:
        _print_estimate(params.prompts)
        return
    prompts = draw_prompts(params.prompts)
    write_prompts(prompts, Layout.prompts_table)
    report = prompts.report()
    styles = ", ".join(f"{style} {count}" for style, count in report["by_style"].items())
    print(f"{report['count']} prompts ({styles}); {report['duplicates_removed']} duplicates left out")
    others = {name: count for name, count in report["rejected"]["by_reason"].items() if name != "duplicate"}
    if others:
        reasons = ", ".join(f"{name} {count}" for name, count in others.items())
        print(f"rejected: {reasons} ({Layout.prompts / REJECTED})")


def _print_estimate(params: PromptsParams) -> None:
    if params.provider != "taxonomy" or params.taxonomy.expand != "llm":
        print(f"0 requests: provider {params.provider} asks no language model")
        return
    from l2p.data.prompting.expansion import estimate

    found = estimate(params)
    print(
        f"{found['requests']:,} requests to {params.llm.model} for {params.count:,} prompts, "
        f"{found['answered already']:,} of them answered already; about {found['prompt tokens']:,} prompt tokens and "
        f"{found['answer tokens']:,} answer tokens if every description is accepted"
    )
    print(
        f"hard limit: {found['max_requests']:,} requests (prompts.llm.max_requests) and "
        f"{found['most answer tokens']:,} answer tokens"
    )
    if found["requests"] > found["max_requests"]:
        print("the limit is too low for prompts.count: raise it, or ask for more prompts_per_request")
