"""Decides how the derivatives with respect to ω are computed at each parameter of a module.

By taps, where only adapters change it and layers of known kinds use it; else by its gradient.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from evaluation.landscape.adapter_taps import Owners, Taps, owners, tap
from merging.inputs.vector import Vector
from merging.live.live_model import View


class SlopePaths:
    """How the derivatives at each parameter are computed, for any number of sweeps.

    Args:
        module: holds a sum of the vectors, Θ + Σ ωᵢ Δᵢ, with any ω; in evaluation mode.
        views: name of a file tensor -> where it lies in the module.
        vectors: the Δᵢ, in any order, which is that of the result.

    Attributes:
        tensors: the tensors of the files that some vector changes, and where they lie.
        weighted: the parameters that need a gradient.
    """

    def __init__(
        self, module: nn.Module, views: Mapping[str, View], vectors: Sequence[Vector]
    ) -> None:
        self.module, self.vectors = module, tuple(vectors)
        held = _parameters(module, views, vectors)
        self.tensors = {name: views[name] for name in _names(views, vectors, held)}
        self.owners: Owners = owners(module, self.tensors, vectors)
        self.weighted = {name: held[name] for name in held if name not in self.owners}
        self._held = held
        self._taps: Taps | None = None

    @property
    def needs_weight_gradients(self) -> bool:
        """Whether a dense vector changes some parameter, or its layer is of an unknown kind."""
        return bool(self.weighted)

    def parameter(self, name: str) -> nn.Parameter:
        """Returns one of the parameters that some vector changes."""
        return self._held[name]

    def taps(self) -> Taps:
        """Returns the taps of the other parameters; the first call reads all their factors.

        The factors stay in memory as long as this object, on the module's device.
        """
        if self._taps is None:
            # What is made in inference mode cannot take part in a backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._taps = Taps(
                    {
                        name: tap(self.module, name, layers, self.tensors, self.vectors)
                        for name, layers in self.owners.items()
                    }
                )
        return self._taps


def _parameters(
    module: nn.Module, views: Mapping[str, View], vectors: Sequence[Vector]
) -> dict[str, nn.Parameter]:
    """Returns the parameters that some vector changes; of a tied one, the first name in `views`."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    held: dict[int, tuple[str, nn.Parameter]] = {}
    for name, view in views.items():
        changes = any(name in vector for vector in vectors)
        if changes and (parameter := parameters.get(view.parameter)) is not None:
            held.setdefault(id(parameter), (view.parameter, parameter))
    return dict(held.values())


def _names(
    views: Mapping[str, View], vectors: Sequence[Vector], held: Mapping[str, nn.Parameter]
) -> tuple[str, ...]:
    """Returns the tensors to multiply with: two names of one memory are one tensor."""
    seen: set[View] = set()
    names = []
    for name, view in views.items():
        changes = any(name in vector for vector in vectors)
        if changes and view.parameter in held and view not in seen:
            seen.add(view)
            names.append(name)
    return tuple(names)
