"""Named conversions. Inside: seconds, bytes, FLOP, tokens, USD. Milliseconds only at the edges."""

US = 1e-6
MS = 1e-3
KILO = 1e3
MEGA = 1e6
GIGA = 1e9
TERA = 1e12
MiB = 2.0**20
GiB = 2.0**30
HOUR_S = 3600.0
BF16_BYTES = 2
FP32_BYTES = 4
GDN_CHUNK_TOKENS = 64  # chunk of the gated delta rule's WY form (flash-linear-attention)
LATENT_HEADS = 128  # query rows on one latent cache, the most that decode kernels were timed with
GDN_HEAD_DIM = 128  # keys and values of the heads that GDN kernels were timed with
GDN_GATES_BESIDE_ROWS = (
    64  # token rows up to which the product of the gates runs beside its neighbour
)


def in_percent(share: float, digits: int = 0) -> str:
    """Return a share as it is written in a sentence."""
    return f"{share:.{digits}%}".replace("%", " %")
