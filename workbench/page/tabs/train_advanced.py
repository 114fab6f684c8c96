"""The settings of a plan that few need, as fields under "Advanced" on the train tab."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import gradio as gr

from training.stage import Stage
from workbench.plans import plan_text


class Advanced(NamedTuple):
    """One field.

    Attributes:
        key: name of the setting in a plan.
        label: what the page calls it.
    """

    key: str
    label: str

    @property
    def default(self) -> Any:
        """The value of a plan that does not name the setting."""
        value: Any = next(
            each.default for each in dataclasses.fields(Stage) if each.name == self.key
        )
        return list(value) if self.several else value

    @property
    def hint(self) -> Any:
        """The setting's type in a Stage."""
        return get_type_hints(Stage)[self.key]

    @property
    def several(self) -> bool:
        """Whether it may be several of its choices at once."""
        return get_origin(self.hint) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it may be; () for a number, and for yes or no."""
        of = get_args(self.hint)[0] if self.several else self.hint
        return tuple(each for each in get_args(of) if isinstance(each, str))

    def shown(self, value: Any) -> Any:
        """Returns the value that the field shows for a plan's value, which may be anything."""
        if self.several:
            return [each for each in self.choices if isinstance(value, list) and each in value]
        if self.choices:
            return value if value in self.choices else self.default
        kind = bool if self.hint is bool else int | float
        fits = isinstance(value, kind) and (self.hint is bool or not isinstance(value, bool))
        return value if fits else self.default


ADVANCED = (
    Advanced("schedule", "Rate falls as"),
    Advanced("warmup", "Warm-up, share"),
    Advanced("optimiser", "Optimiser"),
    Advanced("decay", "Weight decay"),
    Advanced("noise", "NEFTune noise (0: off)"),
    Advanced("max_length", "Longest example, tokens"),
    Advanced("too_long", "Longer examples"),
    Advanced("order", "Order of examples"),
    Advanced("packing", "Packing"),
    Advanced("checkpointing", "Less memory, more time (checkpointing)"),
    Advanced("base_dtype", "Dtype of a frozen base"),
    Advanced("attention", "Attention"),
    Advanced("beta1", "β1 of AdamW"),
    Advanced("beta2", "β2 of AdamW"),
    Advanced("leftover", "Rest of a group"),
    Advanced("save_dtype", "Dtype of saved weights"),
    Advanced("save_every", "Save state every N steps"),
    Advanced("report_to", "Curves also to"),
    Advanced("keep", "Weights to keep"),
    Advanced("patience", "Patience, measurements"),
    Advanced("keep_epochs", "Keep a checkpoint of each epoch"),
    Advanced("liger", "Liger kernels (accelerators only)"),
)
"""The fields in their order."""


def build() -> list[Any]:
    """Builds the fields, closed; returns their components in the order of ADVANCED."""
    components: dict[str, Any] = {}
    with gr.Accordion("Advanced", open=False, elem_id="train-advanced"):
        with gr.Row(elem_id="train-advanced-fields"):
            for each in ADVANCED:
                if each.choices:
                    components[each.key] = gr.Dropdown(
                        list(each.choices),
                        value=each.default,
                        multiselect=each.several,
                        **_named(each),
                    )
                elif each.hint is not bool:
                    components[each.key] = gr.Number(each.default, **_named(each))
        with gr.Row(elem_id="train-advanced-choices"):
            for each in ADVANCED:
                if each.hint is bool:
                    components[each.key] = gr.Checkbox(each.default, **_named(each))
    return [components[each.key] for each in ADVANCED]


def _named(field: Advanced) -> dict[str, Any]:
    return {"label": field.label, "elem_id": f"train-{field.key.replace('_', '-')}"}


def write(text: str, key: str, value: Any) -> str:
    """Returns the plan with one setting; a value that is the default is left out.

    Args:
        text: the plan.
        key: name of the setting.
        value: what its field holds; None for an empty field.

    Raises:
        PlanError: the text is not YAML.
    """
    field = next(each for each in ADVANCED if each.key == key)
    # A number box gives 256.0, and a plan's counts are whole numbers.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return plan_text.with_settings(text, **{key: None if value == field.default else value})


def values(settings: Mapping[str, Any]) -> Sequence[Any]:
    """Returns what the fields show for the settings of a plan, in the order of ADVANCED."""
    return [field.shown(settings.get(field.key, field.default)) for field in ADVANCED]
