"""Time, memory and quality of the source modes (M3), as ratios to plain sampling of the same model in the same run.

    python -m benchmarks.source_modes                  # about an hour; writes docs/source_modes.json
    python -m benchmarks.source_modes --quick          # a minute, and writes nothing
    python -m benchmarks.source_modes --only memory    # one part of time, growth, memory, estimate, quality; the others stay as recorded
    python -m benchmarks.source_modes --device cuda    # Wan 1.3B's shape at 832x480x81, bf16, random weights

Arithmetic is counted in rows: a row is one pass of one latent through the model, a plain step with CFG has two.
"""
