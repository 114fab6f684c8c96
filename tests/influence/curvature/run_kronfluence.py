"""Runs in .venv-influence, without this project: influences by kronfluence 1.0.1, as JSON.

    python run_kronfluence.py request.json answer.json

The request holds a folder with a causal language model, names of its linear layers, sets of
examples as (token ids, which of them are learned), reference sets, and whether the curvature is
that of the data's own tokens. The answer is the mean score of each pair of sets.
"""

import json
import sys
from pathlib import Path

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM


class LanguageTask(Task):
    """The losses of influence.curvature.fisher_blocks while factors are fitted, then mean losses."""

    fitting = True

    def __init__(self, layers):
        self._layers = layers

    def get_influence_tracked_modules(self):
        return self._layers

    def get_attention_mask(self, batch):
        return batch["attention_mask"]

    def compute_train_loss(self, batch, model, sample=False):
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits[:, :-1]
        labels = batch["labels"][:, 1:].clone()
        learned = labels >= 0
        if sample:
            with torch.no_grad():
                drawn = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1).view(labels.shape)
            labels[learned] = drawn[learned]
        losses = cross_entropy(
            logits.transpose(1, 2), labels, reduction="none", ignore_index=-100
        ).sum(1)
        tokens = learned.sum(1)
        return (losses / (tokens**0.5 if self.fitting else tokens)).sum()

    def compute_measurement(self, batch, model):
        return self.compute_train_loss(batch, model)


def padded(examples):
    """One row per example: ids, labels and mask, padded on the right."""
    width = max(len(ids) for ids, _ in examples)
    rows = []
    for ids, learned in examples:
        rest = width - len(ids)
        labels = [token if used else -100 for token, used in zip(ids, learned, strict=True)]
        rows.append(
            {
                "input_ids": torch.tensor(ids + [0] * rest),
                "labels": torch.tensor(labels + [-100] * rest),
                "attention_mask": torch.tensor([1] * len(ids) + [0] * rest),
            }
        )
    return rows


def main(request: Path, answer: Path) -> None:
    asked = json.loads(request.read_text())
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32)
    task = LanguageTask(asked["layers"])
    model = prepare_model(model.eval(), task)
    analyzer = Analyzer(
        "oracle", model, task, cpu=True, disable_tqdm=True, output_dir=str(answer.parent / "work")
    )
    train = [example for each in asked["sets"].values() for example in each]
    wanted = [example for each in asked["references"].values() for example in each]
    factors = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=asked["empirical"],
        activation_covariance_dtype=torch.float32,
        gradient_covariance_dtype=torch.float32,
        lambda_dtype=torch.float32,
    )
    analyzer.fit_all_factors("ekfac", padded(train), per_device_batch_size=80, factor_args=factors)
    task.fitting = False
    analyzer.compute_pairwise_scores(
        "scores",
        "ekfac",
        query_dataset=padded(wanted),
        train_dataset=padded(train),
        per_device_query_batch_size=80,
        per_device_train_batch_size=80,
        score_args=ScoreArguments(damping_factor=None),
    )
    scores = analyzer.load_pairwise_scores("scores")["all_modules"].double()
    rows = scores.split([len(each) for each in asked["references"].values()])
    columns = [len(each) for each in asked["sets"].values()]
    means = [[float(part.mean()) for part in row.split(columns, 1)] for row in rows]
    answer.write_text(json.dumps(means))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
