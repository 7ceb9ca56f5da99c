"""Figures that were published for the same tasks: exact match in percent.

*GradMem: Learning to Write Context into Memory with Test-Time Gradient Descent*, arXiv 2603.13875.
"""

SIZES = (4, 8, 16, 32, 64, 96)
PAIRS: dict[tuple[str, int], tuple[float, ...]] = {
    ("full-context", 1): (100, 100, 99.8, 99.8, 96.5, 98.8),
    ("armt", 1): (99.0, 98.5, 97.4, 54.9, 22.6, 15.2),
    ("rmt", 1): (100, 100, 45.5, 44.3, 19.3, 12.9),
    ("gradmem", 1): (100, 99.7, 96.3, 86.9, 58.6, 32.6),
    ("gradmem", 2): (100, 100, 99.6, 98.3, 72.8, 34.2),
    ("gradmem", 5): (100, 100, 100, 99.9, 99.1, 88.4),
    ("gradmem-first-order", 1): (46.7, 12.9, 3.0),
}
"""On SIZES pairs, or the first of them, by writer and write steps (K) at test time; 8 memory
vectors, 4 layers, width 128."""
LANGUAGE: dict[str, dict[str, float]] = {
    "babi-1": {"gradmem": 100, "rmt": 100, "armt": 100, "full-context": 100},
    "babi-2": {"gradmem": 94.2, "rmt": 93.9, "armt": 93.8, "full-context": 100},
    "babi-3": {"gradmem": 80.0, "rmt": 87.9, "armt": 92.3, "full-context": 99.8},
    "babi-4": {"gradmem": 100, "rmt": 100, "armt": 100, "full-context": 100},
    "babi-5": {"gradmem": 99.2, "rmt": 93.9, "armt": 98.9, "full-context": 99.4},
    # 32 vectors; 38.1 at K = 1. By its code it is teacher-forced, not free greedy generation.
    "short-squad": {"gradmem": 54.9, "rmt": 42.6, "armt": 39.0, "full-context": 64.2},
}
"By task and writer, on GPT-2."
CONTEXTS = 38_000_000
"""Contexts that GradMem for 96 pairs was trained on, in all runs that led there, by the authors'
scripts: AdamW at 1e-4, batches of 64, one query each."""
