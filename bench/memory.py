"""Memory of a training before activations, computed at full size without weights, by ZeRO stage and trained blocks.

    python -m bench.memory                              # every family, 1 and 8 GPUs; half a minute
    python -m bench.memory --family z-image flux1-dev
    python -m bench.memory --check                      # computed against measured on this machine, one process
    python -m bench.memory --check --processes 2        # and the splitting among two

Computed on the meta device from the real tensors: frozen matrices 2 bytes a value, other frozen values 4, and what
DeepSpeed holds of each trained value (bench.memory_formula). It is what each GPU needs beside activations at the worst
moment of a step; stage 3 gathers in addition up to `stage3_max_live_parameters` (10^9) values of the weights that it
works on. GB are 10^9 bytes.

`--check` trains a Z-Image of random weights for two steps, with averaged weights, and adds up the tensors that are
alive at three moments. Resident memory has in addition activations, autocast's copies of weights in bfloat16, and what
libraries hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from bench import memory_check
from bench.memory_formula import BUCKET_VALUES, Share, content_of
from bench.random_models import count_blocks, empty_model, preset_params
from l2p.config import Params
from l2p.models.families import NAMES, read_known
from l2p.quiet import quiet_third_parties

TRAINED_ENDS = (1, 2, 3, 5)  # n of the paper, beside that of the preset
PROCESSES = (1, 8)
STAGES = (1, 2, 3)
GIGA = 1e9


def main() -> None:
    """Print the tables, or the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", default=list(NAMES), choices=NAMES, help="published sources")
    parser.add_argument("--averages", action="store_true", help="with averaged weights, whatever the preset says")
    parser.add_argument("--check", action="store_true", help="measure instead, a model of --width and --blocks")
    parser.add_argument("--processes", type=int, default=1, help="of --check")
    parser.add_argument("--width", type=int, default=768, help="of --check, a multiple of 128")
    parser.add_argument("--blocks", type=int, default=12, help="of --check")
    arguments = parser.parse_args()
    quiet_third_parties()
    if arguments.check:
        memory_check.check(arguments.processes, width=arguments.width, blocks=arguments.blocks)
        return
    for family in arguments.family:
        for line in table(family, averages=arguments.averages):
            print(line, flush=True)


def table(family: str, *, averages: bool = False) -> Iterator[str]:
    """Lines of the family's table in Markdown; the n of its preset is bold."""
    known, params = read_known(family), preset_params(family)
    averages = averages or params.train.ema_decay > 0
    zero: Any = params.train.deepspeed.get("zero_optimization", {})
    bucket = int(zero.get("reduce_bucket_size", BUCKET_VALUES))
    preset_n = params.train.trainable.first_blocks
    cells = [f"{count} GPU{'s' * (count > 1)}, ZeRO {stage}" for count in PROCESSES for stage in STAGES]
    columns = ["n", "trained, 10^9", *cells, "offloaded, 1 GPU: GPU + host"]
    yield f"\n{known.title}{', with averaged weights' if averages else ''}: GB before activations\n"
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---:|" * len(columns)
    for ends in sorted({*TRAINED_ENDS, preset_n}):
        model = empty_model(known, params)
        if 2 * ends > count_blocks(model):
            continue
        content = content_of(model, with_ends(params, ends))
        label = f"**{ends}**" if ends == preset_n else str(ends)
        peaks = [Share(stage, count, averages, bucket).peak(content) for count in PROCESSES for stage in STAGES]
        gpu, host = Share(3, 1, averages, bucket).offloaded(content)
        row = [label, f"{content.trained / GIGA:.2f}", *(f"{peak / GIGA:.1f}" for peak in peaks)]
        yield f"| {' | '.join([*row, f'{gpu / GIGA:.1f} + {host / GIGA:.1f}'])} |"


def with_ends(params: Params, ends: int) -> Params:
    """`params` with n = `ends`."""
    trainable = params.train.trainable.model_copy(update={"first_blocks": ends, "last_blocks": ends})
    return params.model_copy(update={"train": params.train.model_copy(update={"trainable": trainable})})


if __name__ == "__main__":
    main()
