"""What counts as finite, in any dtype and layout, and which infinities are the base's own."""

import math

import pytest
import torch

from merging.engine.finite import all_finite, explain_not_finite
from merging.engine.task import Task
from merging.methods._contract import load

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [False, True])
def test_all_finite_is_what_torch_says_of_each(dtype, turned):
    # Their sum overflows, and each of them is finite.
    values = torch.full((5, 7), torch.finfo(dtype).max, dtype=dtype)
    values = values.T if turned else values
    assert all_finite(values)
    for value in (math.nan, math.inf, -math.inf):
        spoiled = values.clone()
        spoiled[3, 2] = value
        assert not all_finite(spoiled)


def task(out_dtype, *vectors):
    return Task("w", (3,), out_dtype, load("linear"), vectors)


def test_a_copy_may_hold_what_the_base_holds_and_no_more():
    base = {"w": torch.tensor([1.0, math.inf, 1e5])}
    wide, narrow = base["w"], base["w"].half()
    assert explain_not_finite(task(torch.float32), base, wide) is None
    assert explain_not_finite(task(torch.bfloat16), base, wide.bfloat16()) is None
    assert "w: 2 merged values are not finite. float16 ends at 65,504" in explain_not_finite(
        task(torch.float16), base, narrow
    )
    assert explain_not_finite(task(torch.float16), base, narrow[:2]) is None
    assert explain_not_finite(task(torch.float16), base, narrow[2:], start=2)
    assert explain_not_finite(task(torch.float32, "a"), base, wide).endswith(
        "w: 1 merged values are not finite. Look for NaN or infinity in the inputs with "
        "`dem inspect`, or choose smaller ω."
    )
    assert explain_not_finite(task(torch.float32, "a"), base, wide[2:], start=2) is None
