"""One stage: against a plain loop, frozen weights, adapters, validation, what is written, refusals before the first step."""

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from corpus import Chat, CorpusError, Example, Message, encode
from plumbing.units import size
from training.batching.order import collate, order
from training.run import memory
from training.run.finetune import Lora, TrainingError, TrainingStopped, run
from training.run.memory import in_bfloat16
from training.run.setup import set_up


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def rate(step, steps, stage):
    """Linear warm-up, then half a cosine, a line, or nothing."""
    warm = round(stage.warmup * steps)
    if step < warm:
        return stage.rate * step / warm
    done = (step - warm) / (steps - warm)
    falls = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return stage.rate * falls[stage.schedule]


def plain_loop(stage):
    """The same training without a trainer: the loss is the mean over all supervised tokens of a step."""
    tokenizer = AutoTokenizer.from_pretrained(stage.base)
    rows = [encode(record, tokenizer) for record in (*stage.examples, *stage.replay)]
    lengths = [len(row.ids) for row in rows]
    own = len(stage.examples)
    model = AutoModelForCausalLM.from_pretrained(stage.base, dtype=torch.float32).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (stage.frozen and "embed_tokens" in name))
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    plain = [one for name, one in trained.items() if "norm" in name]
    decayed = [one for name, one in trained.items() if "norm" not in name]
    sets = [
        {"params": decayed, "weight_decay": stage.decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(sets, betas=(0.9, stage.beta2), eps=1e-8, fused=True)
    batches, steps = order(stage, lengths[:own], lengths[own:], list(stage.groups or ()), 1)
    for step in range(steps):
        mine = [
            collate([rows[index] for index in batch], tokenizer.pad_token_id)
            for batch in batches[step * stage.accumulation : (step + 1) * stage.accumulation]
        ]
        count = sum((batch["labels"][:, 1:] != -100).sum() for batch in mine)
        for batch in mine:
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16(stage, "cpu")):
                logits = model(
                    batch["input_ids"], attention_mask=batch["attention_mask"]
                ).logits.float()
            targets = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:].flatten()
            (
                cross_entropy(logits.flatten(0, 1), targets, ignore_index=-100, reduction="sum")
                / count
            ).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps, stage)
        optimiser.step()
        optimiser.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"order": "by_length", "steps": 19, "batch": 4},
        {"schedule": "linear", "warmup": 0.3, "steps": 10, "decay": 0.3, "beta2": 0.999},
        {"schedule": "constant", "accumulation": 3, "batch": 2, "steps": 7},
        {"steps": None, "epochs": 1.5, "batch": 4, "seed": 3},
        {"precision": "bf16", "steps": 9},
        {
            "groups": tuple(number % 3 for number in range(35)),
            "batch": 2,
            "accumulation": 2,
            "steps": 9,
        },
    ],
    ids=lambda change: "-".join(map(str, change)) or "plain",
)
def test_the_same_bits_as_a_plain_loop(stage, tmp_path, change):
    stage = replace(stage, **change)
    assert same(weights(run(stage, tmp_path / "out").folder), plain_loop(stage))


def test_replay_and_frozen_weights_as_in_a_plain_loop(stage, replay, tmp_path):
    more = {
        "replay": replay,
        "replay_share": 0.4,
        "frozen": ("*embed_tokens*",),
        "order": "by_length",
        "steps": 20,
    }
    stage = replace(stage, **more)
    found = weights(run(stage, tmp_path / "out").folder)
    assert same(found, plain_loop(stage))
    before = weights(stage.base)
    assert {name for name in before if not torch.equal(before[name], found[name])} == set(
        before
    ) - {"model.embed_tokens.weight"}


def test_another_seed_gives_other_weights(stage, tmp_path):
    one, two, other = (
        weights(run(replace(stage, seed=seed), tmp_path / name).folder)
        for seed, name in [(0, "a"), (0, "b"), (1, "c")]
    )
    assert same(one, two)
    assert not same(one, other)


def test_the_curve_falls_and_is_told_as_it_is_known(stage, tmp_path):
    calls, points = [], []
    more = {
        "steps": 80,
        "rate": 3e-3,
        "batch": 16,
        "validation": {"v": stage.examples[:4]},
        "evaluate_every": 30,
    }
    made = run(
        replace(stage, **more),
        tmp_path / "out",
        lambda *call: calls.append(call),
        on_log=points.append,
    )
    assert [call[:2] for call in calls] == [(1, 80), *((step, 80) for step in range(2, 81, 2))]
    assert calls[-1][2] < 0.6 * calls[0][2]
    assert [point.step for point in points if point.validation] == [30, 60, 80]
    assert [point.step for point in made.curve] == [1, *range(2, 81, 2)]
    assert [point.loss for point in made.curve] == [call[2] for call in calls]
    assert {point.step: point.validation for point in made.curve if point.validation} == {
        point.step: point.validation for point in points if point.validation
    }
    assert all(point.tokens_per_second > 0 for point in made.curve)


def scores_of(folder, records):
    """Loss and accuracy: means over supervised tokens, one record at a time, in float64."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    total = right = count = 0
    for record in records:
        row = encode(record, tokenizer)
        with torch.no_grad():
            logs = model(torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)
        for place, (token, supervised) in enumerate(zip(row.ids, row.supervised, strict=True)):
            total -= float(logs[place - 1, token]) if supervised else 0.0
            right += bool(supervised) and int(logs[place - 1].argmax()) == int(token)
            count += int(supervised)
    return total / count, right / count


def test_validation_is_the_mean_over_supervised_tokens_of_each_dataset(stage, replay, tmp_path):
    long = (Example("one two three four five six seven", " eight nine ten"), Example("a", " b"))
    stage = replace(
        stage, validation={"sums": stage.examples[:7], "long": long, "say": replay}, batch=3,
        steps=40,
    )  # fmt: skip
    made = run(stage, tmp_path / "out")
    last = made.curve[-1]
    assert last.step == 40 and last.loss is not None
    for name, records in stage.validation.items():
        loss, accuracy = scores_of(made.folder, records)
        assert last.validation[name] == pytest.approx(loss, rel=1e-5)
        assert last.accuracy[name] == pytest.approx(accuracy, rel=1e-12)
    assert 0 < last.accuracy["sums"] < 1  # so that a wrong count would be seen
    shown = last.validation_text()
    assert f"sums {last.validation['sums']:.3f} ({100 * last.accuracy['sums']:.0f} % of" in shown


def test_measuring_changes_no_bit(stage, tmp_path):
    stage = replace(stage, steps=6, lora=Lora(2, dropout=0.3))
    plain = load_file(run(stage, tmp_path / "plain").folder / "adapter_model.safetensors")
    watched = replace(
        stage, validation={"v": stage.examples[:3]}, evaluate_every=2, keep="last", save_every=2
    )
    assert same(
        load_file(run(watched, tmp_path / "watched").folder / "adapter_model.safetensors"), plain
    )


@pytest.mark.parametrize("lora", [None, Lora(2)])
@pytest.mark.slow
def test_the_best_weights_are_kept(stage, replay, tmp_path, lora):
    """Trained on sums with a high rate, it forgets what it is measured on: the best comes before the end."""
    settled = {
        "validation": {"say": replay},
        "evaluate_every": 2,
        "schedule": "constant",
        "steps": 16,
    }
    stage = replace(stage, lora=lora, rate=0.02, warmup=0.0, batch=8, **settled)
    made = run(replace(stage, keep="best"), tmp_path / "best")
    measured = {point.step: point.validation["say"] for point in made.curve if point.validation}
    best = min(measured, key=measured.__getitem__)
    assert 0 < best < 16
    facts = json.loads((made.folder / "training.json").read_text("utf-8"))
    assert facts["kept_step"] == best
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert not same(
        load_file(made.folder / name), load_file(run(stage, tmp_path / "last").folder / name)
    )
    if lora is None:
        assert scores_of(made.folder, replay)[0] == pytest.approx(measured[best], rel=1e-5)


def test_the_folder_holds_a_checkpoint_and_what_is_needed_to_repeat_it(stage, tmp_path):
    made = run(replace(stage, validation={"v": stage.examples[:2]}, save_every=1), tmp_path / "out")
    assert {path.name for path in made.folder.iterdir()} == {
        path.name for path in stage.base.iterdir()
    } | {"training.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    facts = json.loads((made.folder / "training.json").read_text("utf-8"))
    assert facts["counts"]["examples"] == {
        "examples": 35,
        "dropped_too_long": 0,
        "tokens": 281,
        "supervised": 106,
        "parts": 0,
        "cut": 0,
        "endless": 0,
    }
    assert facts["counts"]["validation/v"]["examples"] == 2
    assert facts["settings"]["steps"] == 3 and facts["settings"]["lora"] is None
    assert facts["spent"]["examples"] == 15 == made.spent.examples
    assert facts["spent"]["peak_bytes"] > 10**6 and facts["spent"]["device_seconds"] > 0
    assert facts["kept_step"] == 3
    assert (len(facts["data"]["examples"]), len(facts["base"]["identity"])) == (64, 32)
    assert [point["step"] for point in facts["curve"]] == [1, 2, 3]
    assert facts["versions"]["torch"] == torch.__version__
    assert len({file.stat().st_mode for file in made.folder.iterdir()}) == 1  # weights as the rest


def test_tokens_are_counted_as_often_as_they_are_seen(stage, tmp_path):
    made = run(replace(stage, steps=None, epochs=3, batch=5), tmp_path / "out")
    counts = made.counts["examples"]
    assert (made.spent.examples, made.spent.tokens) == (3 * counts.examples, 3 * counts.tokens)
    assert made.spent.supervised == 3 * counts.supervised
    assert made.spent.wall_seconds > 0 and made.spent.device == "cpu" and made.spent.processes == 1


def test_what_is_too_long_is_left_out_and_groups_follow(stage, tmp_path):
    """Were the groups not moved up with the examples, a step would mix them and the weights differ."""
    long = Example("word " * 300, " no")
    records, groups = (
        (long, *stage.examples[:20], long, *stage.examples[20:]),
        (1, *[0] * 20, 1, *[1] * 15),
    )
    grouped = replace(stage, examples=records, groups=groups)
    made = run(grouped, tmp_path / "long")
    assert (made.counts["examples"].examples, made.counts["examples"].dropped_too_long) == (35, 2)
    short = replace(stage, groups=(*[0] * 20, *[1] * 15))
    assert same(weights(made.folder), weights(run(short, tmp_path / "short").folder))


def test_an_adapter_names_its_base_as_told_and_has_no_card(stage, tmp_path):
    folder = run(
        replace(stage, lora=Lora(2), base_name="assets/demo/base"), tmp_path / "out"
    ).folder
    names = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {path.name for path in folder.iterdir()} == names | {"training.json"}
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert settings["base_model_name_or_path"] == "assets/demo/base"
    assert (settings["r"], settings["lora_alpha"], settings["inference_mode"]) == (2, 4, True)
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert (
        len(load_file(folder / "adapter_model.safetensors")) == 4 * 7 * 2
    )  # layers, linear maps, A and B
    assert (
        json.loads((folder / "training.json").read_text("utf-8"))["base"]["name"]
        == "assets/demo/base"
    )


def test_settings_of_an_adapter_reach_it(stage, tmp_path):
    lora = Lora(3, alpha=5.0, dropout=0.2, targets=("q_proj", "v_proj"), rslora=True)
    folder = run(replace(stage, lora=lora), tmp_path / "out").folder
    settings = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert (
        settings["r"],
        settings["lora_alpha"],
        settings["lora_dropout"],
        settings["use_rslora"],
    ) == (
        3,
        5.0,
        0.2,
        True,
    )
    found = load_file(folder / "adapter_model.safetensors")
    assert len(found) == 4 * 2 * 2
    assert all("q_proj" in name or "v_proj" in name for name in found)


def test_gradient_checkpointing_gives_the_same_weights(stage, tmp_path):
    plain, saving = (
        weights(run(replace(stage, checkpointing=on), tmp_path / str(on)).folder)
        for on in (False, True)
    )
    assert same(plain, saving)


def test_bfloat16_weights_on_disk_lose_part_of_the_delta(stage, tmp_path):
    """The reason for float32: of a small delta, what 8 bits of mantissa cannot hold is gone."""
    stage = replace(stage, rate=1e-5, schedule="constant", warmup=0.0)
    exact = weights(run(stage, tmp_path / "float32").folder)
    folder = run(replace(stage, save_dtype="bfloat16"), tmp_path / "bfloat16").folder
    rounded, base = weights(folder), weights(stage.base)
    assert {one.dtype for one in rounded.values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text("utf-8"))["dtype"] == "bfloat16"
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(rounded[name], exact[name].bfloat16())
    delta = exact[name] - base[name]
    lost = (rounded[name].float() - base[name].bfloat16().float() == 0) & (delta != 0)
    assert lost.float().mean() > 0.5


@pytest.mark.parametrize("lora", [None, Lora(2)])
def test_no_call_is_one_that_its_library_means_to_remove(stage, replay, tmp_path, lora):
    """A FutureWarning is for the user's eyes, and would stand in the middle of a bar."""
    more = {
        "frozen": ("*embed_tokens*",),
        "replay": replay,
        "replay_share": 0.4,
        "checkpointing": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        run(replace(stage, lora=lora, **more), tmp_path / "out")


def test_the_configuration_stays_the_bases(stage, tmp_path):
    """The trainer turns the cache of generation off; saved so, every later answer would be computed anew per token."""
    before, after = (
        json.loads((folder / "config.json").read_text("utf-8"))
        for folder in (stage.base, run(stage, tmp_path / "out").folder)
    )
    assert after == before
    assert after["use_cache"] is True


def test_chats_are_trained_on_with_a_template_and_refused_without(stage, tmp_path):
    chats = tuple(
        Chat((Message("user", f"{n} ?"), Message("assistant", f"{n + 1}"))) for n in range(6)
    )
    with pytest.raises(CorpusError, match="(?s)examples: .*record 1; record 2.*template"):
        run(replace(stage, examples=chats), tmp_path / "out")
    base = shutil.copytree(stage.base, tmp_path / "base")
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    (base / "chat_template.jinja").write_text(template, "utf-8")
    made = run(replace(stage, base=base, examples=chats), tmp_path / "out")
    assert made.counts["examples"].supervised == 6 * 2  # a digit and the end
    assert not list(tmp_path.glob("*.training"))


def test_a_tokenizer_without_a_token_to_pad_with_still_pads(stage, tmp_path):
    """GPT-2 and Llama come without one; what stands in padding is neither read nor supervised."""
    base = shutil.copytree(stage.base, tmp_path / "base")
    for name in ("tokenizer_config.json",):
        settings = json.loads((base / name).read_text("utf-8"))
        del settings["pad_token"]
        (base / name).write_text(json.dumps(settings), "utf-8")
    made = run(replace(stage, base=base), tmp_path / "out")
    assert same(weights(made.folder), weights(run(stage, tmp_path / "padded").folder))


def test_another_family_trains_and_keeps_its_names(stage, tmp_path):
    """GPT-2: Conv1D, learnt positions, a tied head, no limit in its tokenizer."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=20,
        vocab_size=301,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    base = tmp_path / "base"
    GPT2LMHeadModel(config).save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(stage.base)
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(base)
    long = Example("word " * 70, " no")
    made = run(replace(stage, base=base, examples=(*stage.examples, long)), tmp_path / "out")
    assert made.counts["examples"].dropped_too_long == 1  # 64 positions, from the configuration
    assert weights(made.folder).keys() == weights(base).keys()


class TestRefusals:
    """Before the first step, and nothing is left."""

    @pytest.fixture(autouse=True)
    def nothing_is_left(self, tmp_path):
        yield
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.training").exists()

    def refused(self, stage, tmp_path, words):
        with pytest.raises(TrainingError, match=words):
            run(stage, tmp_path / "out")

    def test_what_is_there_is_not_overwritten(self, stage, tmp_path):
        with pytest.raises(TrainingError, match="exists already"):
            run(stage, tmp_path)

    def test_patterns(self, stage, tmp_path):
        self.refused(
            replace(stage, frozen=("*embedding*",)),
            tmp_path,
            r'"\*embedding\*" matches no parameter',
        )
        self.refused(replace(stage, frozen=("*",)), tmp_path, "leave nothing to train")

    def test_targets_of_an_adapter(self, stage, tmp_path):
        stage = replace(stage, lora=Lora(2, targets=("query",)))
        self.refused(stage, tmp_path, '"query" matches no module. Modules end in: .*q_proj')

    def test_examples_that_are_too_long(self, stage, tmp_path):
        long = (Example("word " * 300, " no"),)
        self.refused(
            replace(stage, examples=long), tmp_path, "none of the 1 examples fits in 256 tokens"
        )
        stage = replace(stage, validation={"v": long})
        self.refused(stage, tmp_path, "none of the 1 examples of validation/v fits in 256 tokens")
        self.refused(
            replace(stage, validation={}, max_length=3),
            tmp_path,
            "none of the 35 examples fits in 3 tokens",
        )
        self.refused(
            replace(stage, validation={}, max_length=300),
            tmp_path,
            "max_length is 300, and the base holds 256",
        )

    def test_a_base_that_is_none(self, stage, tmp_path):
        self.refused(
            replace(stage, base=tmp_path / "nowhere"),
            tmp_path,
            "nowhere: has no config.json",
        )
        adapter = run(replace(stage, lora=Lora(2)), tmp_path / "adapter").folder
        self.refused(replace(stage, base=adapter), tmp_path, "adapter: is a LoRA adapter")

    def test_a_base_with_weights_missing(self, stage, tmp_path):
        base = shutil.copytree(stage.base, tmp_path / "base")
        found = weights(base)
        del found["model.norm.weight"]
        save_file(found, base / "model.safetensors", {"format": "pt"})
        self.refused(
            replace(stage, base=base),
            tmp_path,
            r"the model needs model\.norm\.weight, which the weights do not hold",
        )

    def test_another_models_tokenizer(self, stage, tmp_path):
        base = shutil.copytree(stage.base, tmp_path / "base")
        config = json.loads((base / "config.json").read_text("utf-8"))
        (base / "config.json").write_text(json.dumps(config | {"vocab_size": 200}), "utf-8")
        self.refused(
            replace(stage, base=base),
            tmp_path,
            "token 2.. occurs in the data, and the base knows 200",
        )

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")
    def test_a_device_that_is_not_there(self, stage, tmp_path):
        self.refused(
            replace(stage, device="cuda"),
            tmp_path,
            'device is "cuda", and torch finds no such device',
        )

    def test_a_batch_that_does_not_fit_in_memory(self, stage, tmp_path):
        self.refused(replace(stage, batch=10**8), tmp_path, "takes about .* TB, and .* GB are free")

    def test_a_batch_that_hardly_fits_is_told(self, stage, monkeypatch, caplog):
        needed = []
        monkeypatch.setattr(memory, "check", lambda need, *_: needed.append(need))
        set_up(stage)
        assert not caplog.messages
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(1.6 * needed[-1]))
        set_up(stage)
        (told,) = caplog.messages
        assert "it fits, but" in told and f"may grow to {size(round(1.7 * needed[-1]))}" in told

    def test_groups_that_cannot_fill_a_step(self, stage, tmp_path):
        self.refused(replace(stage, groups=(*[0] * 33, 1, 1), leftover="drop"), tmp_path, "2")


def test_a_loss_that_is_not_a_number_ends_the_run(stage, tmp_path):
    with pytest.raises(TrainingError, match=r"loss is nan at step \d+.* lower rate than 1e\+10"):
        run(replace(stage, rate=1e10, warmup=0.0, steps=30), tmp_path / "out")


def test_a_stop_keeps_the_state_and_the_run_goes_on_from_there(stage, tmp_path):
    stage = replace(stage, steps=9, validation={"v": stage.examples[:3]}, evaluate_every=2)
    whole = run(stage, tmp_path / "whole")
    asked = []
    with pytest.raises(TrainingStopped, match=r"after step 4 of 9.*out\.training.*resume=True"):
        run(stage, tmp_path / "out", should_stop=lambda: asked.append(1) or len(asked) == 4)
    assert not (tmp_path / "out").exists()
    seen = []
    made = run(stage, tmp_path / "out", lambda *call: seen.append(call[0]), resume=True)
    assert seen == [5, 6, 7, 8, 9]
    assert same(weights(made.folder), weights(whole.folder))
    assert [point[:3] for point in made.curve] == [point[:3] for point in whole.curve]
    assert [point.validation for point in made.curve] == [point.validation for point in whole.curve]
    assert (made.spent.examples, made.spent.tokens) == (whole.spent.examples, whole.spent.tokens)
    assert not (tmp_path / "out.training").exists()


@pytest.mark.slow
def test_an_unfinished_run_is_neither_lost_nor_confused_with_another(stage, tmp_path):
    stopped = replace(stage, steps=9)
    with pytest.raises(TrainingStopped):
        run(stopped, tmp_path / "out", should_stop=lambda: True)
    with pytest.raises(
        TrainingError,
        match=r"holds an unfinished run, 1 steps of which are saved. Give resume=True",
    ):
        run(stopped, tmp_path / "out")
    with pytest.raises(TrainingError, match=r"another one: rate was 0.0006 and is 0.001\. "):
        run(replace(stopped, rate=1e-3), tmp_path / "out", resume=True)
    with pytest.raises(TrainingError, match=r"another one: examples was '.*' and is '.*'"):
        run(replace(stopped, examples=stopped.examples[::-1]), tmp_path / "out", resume=True)
    made = run(replace(stopped, save_every=2), tmp_path / "out", resume=True)
    assert same(weights(made.folder), weights(run(stopped, tmp_path / "whole").folder))


def test_the_last_steps_answer_is_not_asked_for(stage, tmp_path):
    asked = []
    made = run(stage, tmp_path / "out", should_stop=lambda: asked.append(1) or len(asked) > 2)
    assert len(asked) == 2 and Path(made.folder).exists()
