"""The parameters that several methods share: type, range and the help text that users read."""

from typing import Annotated, Literal

from merging.methods._values import PerVector, Range

Density = Annotated[
    PerVector, Range(0.0, 1.0), "the share of the entries of each delta that is kept"
]

Gamma = Annotated[
    PerVector,
    Range(0.0, 1.0),
    "the share of the entries of each delta, the largest ones, that is dropped as outliers",
]

Epsilon = Annotated[
    PerVector,
    Range(0.0, 0.5),
    "the keep-probability runs from density − epsilon (smallest entry) to density + epsilon",
]

Lambda = Annotated[float, Range(-10.0, 10.0), "a factor on the whole sum"]

NormalizeSum = Annotated[bool, "divide by the sum of the ω"]

NormalizeAgreeing = Annotated[
    bool, "divide each entry by the total of the models that agree with its sign (see divide_by)"
]

RescaleL1 = Annotated[
    bool, "scale the kept entries up so that the sum of magnitudes stays what it was"
]

RescaleDropped = Annotated[bool, "scale the kept entries up for the dropped ones (see rescale_by)"]

RescaleBy = Annotated[
    Literal["l1", "density"],
    "restore the sum of magnitudes (l1, as mergekit) or divide by the density (the DARE paper)",
]

Elect = Annotated[
    Literal["weighted", "unweighted"],
    "the sign of Σ ωᵢΔᵢ (weighted, as mergekit) or of Σ Δᵢ (unweighted, as the TIES paper)",
]

DivideBy = Annotated[
    Literal["weight", "count"],
    "the sum of the agreeing ω (weight, as mergekit) or their number (count, as the TIES paper)",
]

Outside = Annotated[
    bool, "decompose matrices outside the layers too, such as embeddings; else they are averaged"
]
"""Whether a method of singular vectors decomposes the matrices that are in no layer."""
