"""The shapes world: scenes of coloured shapes, their captions, benchmarks, judges and the embedded source's recipe."""
