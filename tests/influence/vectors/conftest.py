"""Live models of a full fine-tuned vector and an adapter, as for the derivatives with respect to ω."""

from tests.evaluation.conftest import build, tokenizer
from tests.evaluation.landscape.test_omega_gradient import opened

__all__ = ["build", "opened", "tokenizer"]
