"""Every method on inputs without room: equal, opposite, in one line, zero, of one entry, tiny, huge.

Each result is compared with a reference in float64, and with the largest entry that the formula
allows. Both are tables over the methods' names: a new method needs a line in BOUNDS.
"""

import itertools
from math import acos, atan2, cos, pi, sin
from random import Random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from merging import DistributionVector, Recipe, merge
from merging.errors import MergingError
from merging.methods import _contract
from merging.methods._random_masks import sparsify
from merging.methods._values import Site, Statistic

SHAPES = [(1,), (2,), (5,), (1, 1), (1, 5), (5, 1), (3, 4), (2, 1, 3)]
FACTORS = [1.0, -1.0, 0.5, -0.75, 0.0, 1.0, 2.0**-40]
SCALES = [1.0, 2.0**-13, 2.0**-44, 2.0**-133, 2.0**99]
"""To 6e29, whose square float32 cannot hold, and to 9e-41, which it holds with a few bits only."""
OMEGAS = [1.0, 0.5, 2.0, -1.0, -0.25]
NEEDED = {"t": 0.25}
SPARSE = {"density": 0.5, "epsilon": 0.25, "rescale": True}
BY_ROW = {"nuslerp_flatten": False, "filter_wise": True}


class Case:
    """A stack in float32 with all that its method is told besides."""

    def __init__(self, name, stack, omegas, base, given):
        self.method = _contract.load(name)
        self.stack, self.omegas = stack, omegas
        known = {param.name: param for param in self.method.parameters}
        needed = {key: NEEDED[key] for key in NEEDED if key in known}
        given = {key: value for key, value in given.items() if key in known}
        self.arguments = self.method.arguments(needed | given, len(stack))
        self.base = base
        self.wide = stack.double()
        self.sizes = self.wide.abs().flatten(1).amax(1)
        self.lengths = torch.stack([torch.linalg.vector_norm(one) for one in self.wide])

    def result(self, dtype=torch.float32):
        site = Site("layers.0.w", self.base.to(dtype), 0.5, tuple(range(len(self.stack))))
        site = site._replace(statistics=self.statistics(dtype))
        omegas = torch.tensor(self.omegas, dtype=dtype)
        # A copy: combine may overwrite its stack.
        stack = self.stack.to(dtype, copy=True)
        return self.method.combine(stack, omegas, site, **self.arguments).double()

    def statistics(self, dtype):
        """Fisher information of each entry, one of them 0; Gram matrices with a condition of 2."""
        count, shape = len(self.stack), self.stack.shape[1:]
        if self.method.statistics == "fisher":
            values = torch.arange(shape.numel(), dtype=dtype).view(shape)
            return tuple(Statistic(values * (own + 1), 2.0) for own in range(count))
        if self.method.statistics == "gram":
            if len(shape) != 2:
                return (None,) * count
            diagonal = torch.linspace(1, 2, shape[1], dtype=dtype)
            return tuple(Statistic(torch.diag(diagonal) * (own + 1)) for own in range(count))
        return ()

    def sum_of(self, sizes):
        """Σ |ωᵢ| · size of xᵢ."""
        return float(sum(abs(omega) * size for omega, size in zip(self.omegas, sizes, strict=True)))

    def factor(self):
        return abs(self.arguments.get("lambda_", 1.0))

    def kept(self):
        """The largest entry of each vector after a trim: its own, or all of them in one."""
        rescaled = self.arguments.get("rescale") and min(self.arguments["density"]) < 1
        return self.wide.abs().flatten(1).sum(1) if rescaled else self.sizes

    def agreeing(self):
        """The largest entry of a sum of some ωᵢxᵢ that may be divided by the sum of these ω."""
        divisors = [1.0]
        if self.arguments["normalize"]:
            for count in range(1, len(self.omegas) + 1):
                for chosen in itertools.combinations(self.omegas, count):
                    divisors += [abs(sum(chosen))] if sum(chosen) else []
        return self.factor() * self.sum_of(self.kept()) / min(divisors)

    def summed(self):
        """The largest entry of Σ ωᵢxᵢ, if wanted over Σ ωᵢ."""
        total = abs(sum(self.omegas)) if self.arguments.get("normalize") else 1.0
        return self.factor() * self.sum_of(self.kept()) / total


def largest_of(case):
    return float(case.sizes.max())


def averaged(case):
    """Σ |ωᵢ||xᵢ| / Σ ωᵢ: what an average of weights cannot leave."""
    return case.sum_of(case.sizes) / abs(sum(case.omegas))


BOUNDS = {
    "arcee_fusion": largest_of,
    "breadcrumbs": Case.summed,
    "breadcrumbs_ties": Case.agreeing,
    "consensus": Case.summed,
    "dare_linear": Case.summed,
    "dare_ties": Case.agreeing,
    "della": Case.agreeing,
    "della_linear": Case.summed,
    "fisher": largest_of,
    # mean(σ) ≤ the largest σ ≤ the length of the sum
    "iso_c": lambda case: case.factor() * case.sum_of(case.lengths),
    "iso_cts": lambda case: case.factor() * case.sum_of(case.lengths),
    "karcher": lambda case: float(case.lengths.mean()),
    "linear": averaged,
    "lines": lambda case: case.factor() * 0.75 * case.sum_of(case.sizes),
    "metagpt": Case.summed,
    # and the rounding of a cosine, which may have kept opposite deltas from a sum of exactly 0
    "model_stock": lambda case: (
        float((stock_shares(case) * case.wide).abs().sum(0).max()) + 1e-12 * largest_of(case)
    ),
    # on the sphere; or, if the directions cancel, the plain sum
    "multislerp": lambda case: (
        max(case.sum_of(case.lengths), case.sum_of(case.sizes)) / abs(sum(case.omegas))
    ),
    "nan": largest_of,
    "nearswap": lambda case: min(case.arguments["t"], largest_of(case)),
    "nuslerp": lambda case: float((nuslerp_shares(case) * case.wide).abs().sum(0).max()),
    "passthrough": largest_of,
    "ram": largest_of,
    "ramplus_tl": lambda case: (1 + 0.1 * 0.2) * largest_of(case),
    # Gᵢ has a condition of 2, and the Gram matrices of all are multiples of one another.
    "regmean": lambda case: 2 * float(case.lengths.max()),
    "sce": largest_of,
    # sin φ is at least that of the cosine 0.9995, from which on the interpolation is linear
    "slerp": lambda case: (largest_of(case) + float(case.base.abs().max())) / sin(acos(0.9995)),
    "task_arithmetic": Case.summed,
    "ties": Case.agreeing,
    # the largest σ of any ωΔ
    "tsv": lambda case: case.factor() * case.sum_of(case.lengths),
}
"""Method -> the largest |entry| that its formula allows for a case."""


def along(rows, axis):
    """Vectors (2 or more, *shape) with the axis last, as matrices of rows."""
    moved = rows.movedim(axis, -1)
    return moved.reshape(len(rows), -1, moved.shape[-1])


def unit(vector):
    peak = vector.abs().max()
    vector = vector / peak if peak else vector
    size = torch.linalg.vector_norm(vector)
    return vector / size if size else vector


def angle_between(one, other):
    """Of two unit vectors; a quarter turn if one is zero. Kahan's formula, precise at 0 and π."""
    if not one.any() or not other.any():
        return pi / 2
    norm = torch.linalg.vector_norm
    return 2 * atan2(float(norm(one - other)), float(norm(one + other)))


def arc(one, other, t, least):
    """The shares of two vectors in their spherical interpolation; a line where sin φ ≤ least."""
    angle = angle_between(unit(one), unit(other))
    if sin(angle) <= least:
        return 1 - t, t
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


def nuslerp_shares(case):
    first, second = case.omegas
    t = 0.5 if first + second == 0 else second / (first + second)
    flat = case.arguments["nuslerp_flatten"]
    rows = case.wide.flatten(1)[:, None] if flat else along(case.wide, -1)
    shares = torch.tensor([arc(one, other, t, 1e-6) for one, other in rows.unbind(1)]).double()
    if flat:
        return shares.view(2, *[1] * (case.wide.dim() - 1))
    return shares.T.reshape(2, *case.wide.shape[1:-1], 1)


def nuslerp(case):
    return (nuslerp_shares(case) * case.wide).sum(0)


def slerp(case):
    base, tuned = case.base.double(), case.wide[0]
    near, far = arc(base.flatten(), tuned.flatten(), case.arguments["t"], sin(acos(0.9995)))
    return near * base + far * tuned


def stock_shares(case):
    rows = along(case.wide, -1) if case.arguments["filter_wise"] else case.wide.flatten(1)[:, None]
    shares = []
    for vectors in rows.unbind(1):
        units = [unit(vector) for vector in vectors]
        pairs = [float(one @ other) for one, other in itertools.combinations(units, 2)]
        mean = sum(pairs) / len(pairs)
        divisor = 1 + (len(units) - 1) * mean
        shares.append(mean / divisor if abs(divisor) >= 1e-6 else 0.0)
    found = torch.tensor(shares, dtype=torch.float64)
    if not case.arguments["filter_wise"]:
        return found.view([1] * case.wide.dim())
    return found.view(1, *case.wide.shape[1:-1], 1)


def model_stock(case):
    return (stock_shares(case) * case.wide).sum(0)


def karcher(case):
    """Iterated on the vectors themselves."""
    if len(case.stack) == 1:
        return case.wide[0]
    units = [
        unit(x.flatten()) for x, size in zip(case.wide, case.lengths, strict=True) if size > 1e-5
    ]
    if not units:
        return torch.zeros_like(case.wide[0])
    mean = torch.stack(units).mean(0)
    mean = unit(mean) if torch.linalg.vector_norm(mean) >= 1e-5 else units[0]
    for _ in range(10):
        tangent = torch.zeros_like(mean)
        for own in units:
            away = own - (own @ mean) * mean
            angle = angle_between(own, mean)
            if 1e-5 <= angle < pi - 1e-6:
                tangent += angle / torch.linalg.vector_norm(away) * away / len(units)
        length = float(torch.linalg.vector_norm(tangent))
        if length < 1e-5:
            break
        mean = unit(cos(length) * mean + sin(length) / length * tangent)
    return (mean * case.lengths.mean()).view(case.wide.shape[1:])


def multislerp(case):
    total = sum(case.omegas)
    weights = [omega / total for omega in case.omegas]
    plain = sum(weight * x for weight, x in zip(weights, case.wide, strict=True))
    if len(case.stack) == 1:
        return case.wide[0]
    exact = [unit(x.flatten()) for x in case.wide]
    sums = sum(weight * own for weight, own in zip(weights, exact, strict=True))
    if torch.linalg.vector_norm(sums) < 1e-6 * sum(map(abs, weights)):
        if len(exact) == 2 or not case.wide.any():
            return plain
        raise MergingError("no mean direction")
    mean = unit(sums)
    tangent = sum(w * (own - (own @ mean) * mean) for w, own in zip(weights, exact, strict=True))
    angle = float(torch.linalg.vector_norm(tangent)) or 1e-30
    size = sum(weight * own for weight, own in zip(weights, case.lengths, strict=True))
    return (size * (mean * cos(angle) + tangent * (sin(angle) / angle))).view(case.wide.shape[1:])


REFERENCES = {
    "karcher": karcher,
    "model_stock": model_stock,
    "multislerp": multislerp,
    "nuslerp": nuslerp,
    "slerp": slerp,
    # Whether an entry is kept depends on the rounding of a divergence that cancels; see its module.
    "arcee_fusion": None,
    # Which singular vectors are kept may depend on rounding.
    "iso_cts": None,
    "tsv": None,
}
"""Method -> its float64 result, computed apart; for the others it is `combine` in float64."""


TOLERANCES = {
    "iso_c": 1e-3,  # singular vectors of σ as small as 1e-3 of the largest
    "nuslerp": 1e-4,  # rows: see nuslerp.OPPOSITE
}
"""Method -> the error allowed, relative to its bound, where it is not 1e-5."""


def drawn(name, chance):
    """Vectors that are multiples of one, perhaps tilted, with ω and parameters that are not refused."""
    least, most = _contract.load(name).vectors
    count = chance.randint(least, min(most or 4, 4))
    shape = chance.choice(SHAPES)

    def numbers():
        # Whole numbers, factors and scales of few bits: products and sums are exact in float32, and
        # an election that is a tie in float64 is one in float32.
        values = [chance.randint(-7, 7) for _ in range(torch.Size(shape).numel())]
        return torch.tensor(values, dtype=torch.float64).view(shape)

    line, tilt = numbers(), chance.choice([0.0, 0.0, 2.0**-10, 1.0])
    rows = [chance.choice(FACTORS) * line + tilt * numbers() for _ in range(count)]
    stack = (torch.stack(rows) * chance.choice(SCALES)).float()
    base = chance.choice([0.0, 1.0, -1.0]) * stack[0]
    omegas = [chance.choice(OMEGAS) for _ in range(count)]
    case = Case(name, stack, omegas, base, chance.choice([{}, SPARSE, BY_ROW]))
    refusal = case.method.refusal
    if refusal and refusal(tuple(omegas), case.arguments):
        case.omegas = [abs(omega) for omega in omegas]
    if name in ("linear", "fisher", "regmean", "multislerp") and sum(case.omegas) == 0:
        case.omegas = [abs(omega) for omega in omegas]
    return case


def expected(case):
    """The reference, or None if the formula has no value."""
    name = case.method.name
    try:
        reference = REFERENCES.get(name, lambda case: case.result(torch.float64))
        return reference(case) if reference else torch.zeros(0)
    except MergingError:
        return None


def decided(case):
    """Where rounding cannot decide an election: rescaled entries have no few bits, so a tie may break."""
    name, edited = case.method.name, case.wide.clone()
    if name not in ("dare_ties", "della"):
        return torch.ones(edited.shape[1:], dtype=torch.bool)
    told, seeds = case.arguments, tuple(range(len(edited)))
    by = told["rescale_by"] if told["rescale"] else "none"
    site = Site("w", torch.zeros_like(edited[0]), seeds=seeds)
    sparsify(edited, site, density=told["density"], rescale_by=by, epsilon=told.get("epsilon"))
    parts = torch.stack([omega * one for omega, one in zip(case.omegas, edited, strict=True)])
    return parts.sum(0).abs() >= 1e-6 * parts.abs().sum(0)


@pytest.mark.parametrize("name", _contract.names())
@given(seed=st.integers(0, 2**32))
@example(seed=131_520)  # a tie of della's
def test_no_result_leaves_what_the_formula_allows(name, seed):
    case = drawn(name, Random(seed))
    wanted = expected(case)
    if wanted is None:
        with pytest.raises(MergingError, match=r"layers\.0\.w"):
            case.result()
        return
    found = case.result()
    bound = BOUNDS[name](case)
    assert torch.isfinite(found).all()
    # float32 rounds; below 1e-38 it has less than its 24 bits.
    assert float(found.abs().max()) <= bound * (1 + 1e-5) + 1e-44
    if len(wanted):
        error = float(((found - wanted).abs() * decided(case)).max())
        assert error <= TOLERANCES.get(name, 1e-5) * bound + 1e-12 * largest_of(case) + 1e-44


def test_every_method_has_a_bound():
    assert set(BOUNDS) == set(_contract.names())


@pytest.mark.parametrize(
    "name", [name for name in _contract.names() if _contract.load(name).statistics is None]
)
def test_scalars_and_empty_tensors_come_out_of_every_merge(name):
    """The whole way: combine sees a tensor without axes as one with a single entry."""
    count = {(1, 1): 1, (2, 2): 2}.get(_contract.load(name).vectors, 3)
    base = {
        "layers.0.scalar": torch.tensor(0.0729),
        "layers.0.frozen": torch.tensor(0.25),
        "layers.0.empty": torch.zeros(0, 3),
    }
    values = dict(zip("abc", (-0.0447, 0.0118, 0.0332)[:count], strict=False))
    vectors = {
        key: DistributionVector(key, base, base | {"layers.0.scalar": torch.tensor(value)})
        for key, value in values.items()
    }
    if _contract.load(name).base_role == "vector":
        vectors["base"] = DistributionVector("base", base, base)
    needed = {"t": 0.25} if name in ("slerp", "nearswap") else {}
    recipe = Recipe.compose(
        "base",
        {key: key for key in values},
        dict.fromkeys(values, 0.5),
        method=name,
        parameters=needed,
    )
    merged = dict(merge(recipe, base, vectors))
    assert {key: value.shape for key, value in merged.items()} == {
        key: value.shape for key, value in base.items()
    }
    # No sum of three changes of at most 0.12 is farther from 0.0729.
    assert abs(float(merged["layers.0.scalar"]) - 0.0729) < 0.35
    if name == "karcher":
        assert float(merged["layers.0.scalar"]) == pytest.approx(
            (0.0729 + 0.0447 + 0.0118 + 0.0332) / 4
        )
    if _contract.load(name).space == "deltas":
        assert merged["layers.0.frozen"] == 0.25
