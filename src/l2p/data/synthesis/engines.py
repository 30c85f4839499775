"""Owns the choice of who draws, as `synthesize.engine`, `num_workers` and `threads` say."""

from __future__ import annotations

import torch

from l2p.config import SynthesizeParams
from l2p.data.synthesis.crew import Crew, LocalCrew
from l2p.data.synthesis.painter import default_device
from l2p.data.synthesis.worker import Job


def make_crew(job: Job, params: SynthesizeParams) -> Crew:
    """Who draws: this process, processes of this machine, or a Ray cluster."""
    if params.engine == "ray":
        from l2p.data.synthesis.ray_workers import RayCrew

        return RayCrew(job, params.num_workers)
    if params.num_workers == 1:
        return LocalCrew(job, default_device())
    from l2p.data.synthesis.processes import ProcessCrew

    return ProcessCrew(job.with_threads(torch.get_num_threads() // params.num_workers), params.num_workers)
