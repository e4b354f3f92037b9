"""Batch sizes of captured decode steps: smaller batches are padded with rows that nobody owns."""


def graph_sizes(most: int) -> list[int]:
    """Batch sizes that SGLang captures with speculation, up to the first that holds ``most``."""
    sizes = [*range(1, 9), *range(10, 33, 2), *range(40, 65, 4), *range(72, 257, 8)]
    return [*(n for n in sizes if n < most), next((n for n in sizes if n >= most), most)]
