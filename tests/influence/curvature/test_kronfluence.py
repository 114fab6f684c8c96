"""EK-FAC gives the ranks of kronfluence 1.0.1, an independent implementation, on the same layers.

kronfluence lives in an environment of its own. Its positive score means helpful, opposite to α.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from corpus.tokens import Encoded
from evaluation.prepared import batched
from influence.balance.domain_influence import domain_influence
from influence.curvature.inverse import CurvatureOptions
from influence.curvature.layer_choice import choose_layers
from influence.gradients.examples import Examples

pytestmark = pytest.mark.oracle


def sentences(seed, prompt):
    """Twelve examples of the same few words in a set's own order, with or without a prompt."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 41, (6,), generator=generator)
    texts = []
    for _ in range(12):
        length = int(torch.randint(5, 14, (1,), generator=generator))
        ids = words[torch.randint(6, (length,), generator=generator)].tolist()
        texts.append((ids, [number >= prompt for number in range(length)]))
    return texts


def as_examples(texts):
    encoded = [replace(Encoded.of(*text), index=index) for index, text in enumerate(texts)]
    learned = tuple(int(each.supervised[1:].sum()) for each in encoded)
    return Examples(batched(encoded, 200), tuple(range(len(texts))), learned, 14, 40)


@pytest.mark.parametrize(("empirical", "prompt", "bar"), [(True, 0, 0.99), (False, 3, 0.95)])
def test_ranks_of_twenty_domains(language_model, ask_oracle, tmp_path, empirical, prompt, bar):
    """With the data's own tokens both compute nearly the same; else each draws its own tokens.

    kronfluence counts inputs at positions that no loss depends on, such as prompts in the last
    layer, and this project does not.
    """
    model = language_model("llama").float()
    model.save_pretrained(tmp_path / "model")
    sets = {f"d{number}": sentences(number, prompt) for number in range(20)}
    references = {f"r{number}": sentences(100 + number, prompt) for number in range(3)}
    asked = {
        "model": str(tmp_path / "model"),
        "layers": list(choose_layers(model)),
        "sets": sets,
        "references": references,
        "empirical": empirical,
    }
    script = Path(__file__).with_name("run_kronfluence.py")
    answer = ask_oracle(script, asked, "answer.json")
    ours = domain_influence(
        model,
        {name: as_examples(texts) for name, texts in sets.items()},
        {name: as_examples(texts) for name, texts in references.items()},
        options=CurvatureOptions(empirical=empirical),
    )
    scores = np.array(json.loads(answer.read_text()))
    ranks = [
        spearmanr(-row, theirs).statistic
        for row, theirs in zip(ours.alpha_per_ref, scores, strict=True)
    ]
    assert np.mean(ranks) >= bar, ranks
    if empirical:  # theirs has neither the sign of α nor its factor |D_j|/N = 1/20
        np.testing.assert_allclose(
            -20 * ours.alpha_per_ref, scores, atol=0.05 * np.abs(scores).max()
        )
