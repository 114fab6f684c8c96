"""DARE: drop entries of each delta at random, scale the rest up, add the deltas."""

from jaxtyping import Float
from torch import Tensor

from merging.methods._chunks import in_blocks as in_blocks
from merging.methods._parameters import Density, Lambda, NormalizeSum, RescaleBy, RescaleDropped
from merging.methods._random_masks import STREAM, sparsify
from merging.methods._sums import sum_in_chunks
from merging.methods._values import Site
from merging.methods.task_arithmetic import refusal as refusal

PAPER = "https://arxiv.org/abs/2311.03099"
FORMULA = (
    "Θ + λ · Σ ωᵢ · rescaled(Mᵢ ⊙ Δᵢ); "
    "each entry of the mask Mᵢ is 1 with probability density, else 0"
)
SPACE = "deltas"
SCOPE = "tensor"
DRAWS = STREAM


def combine(
    stack: Float[Tensor, "vectors *shape"],
    omegas: Float[Tensor, "vectors"],
    site: Site,
    *,
    density: Density = (1.0,),
    normalize: NormalizeSum = False,
    rescale: RescaleDropped = True,
    lambda_: Lambda = 1.0,
    rescale_by: RescaleBy = "l1",
) -> Float[Tensor, "*shape"]:
    """Drops entries at random, rescales what is kept and adds the deltas: DARE (arXiv 2311.03099).

    At density 0.5, [2, −2, 4, 4] may become [2, 0, 4, 0]. The sum of magnitudes falls from 12 to
    6, so what is kept is doubled: [4, 0, 8, 0].
    """
    by = rescale_by if rescale else "none"
    sparsify(stack, site, density=density, rescale_by=by)
    # λ and the divisor are folded into the ω: a few numbers, and no more passes over the tensor.
    return sum_in_chunks(stack, omegas * (lambda_ / omegas.sum() if normalize else lambda_))
