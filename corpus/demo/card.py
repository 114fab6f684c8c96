"""The README of the demo's data folder."""

from __future__ import annotations

CARD = r"""# The demo's data

Five datasets that represent the five sources of the DEM paper, in miniature. Everything is
generated from a seed by `corpus/demo/`; `dem demo build` writes the same bytes again.

| dataset | mirrors | what it asks | measured by |
|---|---|---|---|
| cot | CoT | arithmetic stories, step by step | exact match of the number after "The answer is" |
| mathqa | MathQA | word problems with four options | accuracy over the choices |
| p3 | P3 | sentiment, topic, inference, paraphrase | accuracy over the choices |
| sni | Super-NaturalInstructions | instructions on some words | exact match of the completion |
| dialog | InstructDial | the next turn of a booking assistant | exact match of the completion |

`<dataset>/test.jsonl` has 300 rows, `validation.jsonl` 200, and `train.jsonl` the first 1,200 rows
of what the expert is trained on. No prompt occurs in two splits, nor twice in one. `order.json` is
the order in which the page shows the datasets.

## Fields

- `prompt`: shown to the model as it is. No token is put before it.
- `completion`: starts with one space; the end token follows it. One line, at most 64 tokens.
- `choices`, `answer` (mathqa, p3): the texts to choose from, without the space, and the index of
  the right one. The completion is `" " + choices[answer]`.

## Measure

- mathqa, p3: `multiple_choice`; text `{{prompt}}`, choices `{{choices}}`, target `{{answer}}`,
  target delimiter one space; metric `acc` (summed log-likelihood, not divided by length).
- sni, dialog: `generate_until`, greedy, until a newline or the end token, at most 64 new tokens;
  output and `completion` stripped of surrounding whitespace; `exact_match`.
- cot: the same, with the filter `The answer is (\d+)` (first match) on the output, against the
  number in `completion`: `{{completion.split('The answer is ')[1].rstrip('.')}}`.
"""
