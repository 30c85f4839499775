"""Owns the names of the pipeline's files."""

from __future__ import annotations

from pathlib import Path


class Layout:
    """Names of the pipeline's files, relative to the project's root."""

    source = Path("models/source.json")
    prompts = Path("data/prompts")
    prompts_table = Path("data/prompts/prompts.parquet")
    corpus = Path("data/corpus")
    corpus_table = Path("data/corpus/metadata.parquet")
    rejected = Path("data/rejected")
    manifest = Path("data/manifest.parquet")
    quarantine = Path("data/quarantine.parquet")
    validation = Path("reports/validation")
    embeddings = Path("data/embeddings")
    init = Path("models/init")
    pixel = Path("models/pixel")
    checkpoints = Path("models/checkpoints")
    training = Path("reports/training")
    benchmarks = Path("data/benchmarks")
    geneval = Path("reports/geneval")
    dpg = Path("reports/dpg")
    fidelity = Path("reports/fidelity.json")
    efficiency = Path("reports/efficiency.json")
    report = Path("reports/index.html")
    comparison = Path("reports/comparison.json")  # `report` writes it; `register` adds the model and calls it summary
    summary = Path("reports/summary.json")
    registration = Path("reports/registration.json")
    usage = Path("reports/usage.jsonl")
