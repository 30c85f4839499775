"""Stage `prompts`: the prompt set, from the provider that params.yaml names."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.data.prompts import draw_prompts, write_prompts


def run(params: Params) -> None:
    """Write `data/prompts`."""
    prompts = draw_prompts(params.prompts)
    write_prompts(prompts, Layout.prompts_table)
    report = prompts.report()
    styles = ", ".join(f"{style} {count}" for style, count in report["by_style"].items())
    print(f"{report['count']} prompts ({styles}); {report['duplicates_removed']} duplicates left out")
