"""Training that goes on from an adapter: its own A and B, the bits of a plain loop over PEFT, breaks, refusals before the first step."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, pad
from transformers import AutoModelForCausalLM, AutoTokenizer

from corpus import encode
from training.batching.order import collate, order
from training.run import record as facts
from training.run.finetune import Lora, TrainingError, TrainingStopped, run
from training.run.lora import adapter_differences
from training.run.setup import set_up
from workbench.demo.blank_base import write_blank

LORA = Lora(2, alpha=6.0)


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def begins(stage):
    """The adapter before the first step, by the names of its file."""
    state = set_up(stage).model.get_adapter_state_dict()
    return {f"base_model.model.{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def first(stage, tmp_path_factory):
    """A stage that ends in an adapter, and its folder."""
    folder = tmp_path_factory.mktemp("first") / "adapter"
    return run(replace(stage, lora=LORA, rate=0.01), folder).folder


@pytest.fixture(scope="module")
def second(stage, first):
    """A stage on other examples that goes on from there; half of the inputs are dropped."""
    more = {"examples": stage.examples[::2], "seed": 5, "steps": 4, "rate": 0.01}
    return replace(stage, lora=replace(LORA, dropout=0.5), adapter=first, **more)


def loop_over_peft(stage):
    """The same training, of an adapter that PEFT loads, without a trainer and without dropout."""
    tokenizer = AutoTokenizer.from_pretrained(stage.base)
    base = AutoModelForCausalLM.from_pretrained(stage.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, stage.adapter, is_trainable=True).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, betas=(0.9, stage.beta2), eps=1e-8, weight_decay=stage.decay, fused=True
    )
    rows = [encode(record, tokenizer) for record in stage.examples]
    batches, steps = order(stage, [len(row.ids) for row in rows], [], [], 1)
    for step, batch in enumerate(batches):
        mine = collate([rows[index] for index in batch], tokenizer.pad_token_id)
        logits = model(input_ids=mine["input_ids"], attention_mask=mine["attention_mask"]).logits
        targets = pad(mine["labels"], (0, 1), value=-100)[:, 1:].flatten()
        loss = cross_entropy(logits.flatten(0, 1), targets, ignore_index=-100, reduction="sum")
        (loss / (targets != -100).sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.param_groups[0]["lr"] = stage.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.step()
        optimiser.zero_grad()
    names = (
        (name.replace(".default.weight", ".weight"), one) for name, one in model.named_parameters()
    )
    return {name: one.detach() for name, one in names if "lora_" in name}


def test_it_begins_with_the_parents_a_and_b_bit_for_bit(second, first):
    assert same(begins(second), tensors(first))
    fresh = begins(replace(second, adapter=None))
    assert fresh.keys() == tensors(first).keys()
    assert not any(torch.equal(fresh[name], one) for name, one in tensors(first).items())
    assert all((one == 0).all() for name, one in fresh.items() if "lora_B" in name)


def test_the_same_bits_as_a_plain_loop_over_what_peft_loads(second, first, tmp_path):
    stage = replace(second, lora=LORA, warmup=0.0)
    found = tensors(run(stage, tmp_path / "out").folder)
    assert same(found, loop_over_peft(stage))
    assert not any(torch.equal(found[name], one) for name, one in tensors(first).items())


def test_the_result_is_one_adapter_on_the_base(second, first, tmp_path):
    folder = run(second, tmp_path / "out").folder
    assert {path.name for path in folder.iterdir()} == {path.name for path in first.iterdir()}
    settings = [
        json.loads((one / "adapter_config.json").read_text("utf-8")) for one in (first, folder)
    ]
    assert settings[1] == settings[0] | {"lora_dropout": 0.5}
    document = json.loads((folder / "training.json").read_text("utf-8"))
    assert document["adapter"] == {"name": first.as_posix(), "identity": facts.identity(first)}
    assert document["base"]["identity"] == facts.identity(second.base)
    assert json.loads((first / "training.json").read_text("utf-8"))["adapter"] is None


@pytest.mark.slow
def test_a_stop_and_another_adapter(second, stage, first, tmp_path):
    whole = run(second, tmp_path / "whole").folder
    asked = []
    with pytest.raises(TrainingStopped):
        run(second, tmp_path / "out", should_stop=lambda: asked.append(1) or len(asked) == 2)
    other = run(replace(stage, lora=LORA, rate=0.02), tmp_path / "other").folder
    with pytest.raises(TrainingError, match=r"another one: adapter was '.*' and is '.*'"):
        run(replace(second, adapter=other), tmp_path / "out", resume=True)
    with pytest.raises(TrainingError, match=r"another one: adapter was '.*' and is None"):
        run(replace(second, adapter=None), tmp_path / "out", resume=True)
    assert same(tensors(run(second, tmp_path / "out", resume=True).folder), tensors(whole))


def test_an_adapter_in_bfloat16_goes_on_in_float32(second, stage, tmp_path):
    folder = run(
        replace(stage, lora=LORA, save_dtype="bfloat16", rate=0.01), tmp_path / "half"
    ).folder
    found = begins(replace(second, adapter=folder))
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert same(found, {name: one.float() for name, one in tensors(folder).items()})


def test_an_adapter_that_peft_made(second, tmp_path):
    """Its base is known by its name alone, and its targets may be written otherwise."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(second.base, dtype=torch.float32)
    settings = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=r".*(q|v)_proj",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(base, settings).save_pretrained(tmp_path / "made")
    stage = replace(
        second, lora=replace(LORA, targets=("q_proj", "v_proj")), adapter=tmp_path / "made"
    )
    assert same(begins(stage), tensors(tmp_path / "made"))
    rename(tmp_path / "made", base_model_name_or_path="org/model")
    with pytest.raises(
        TrainingError,
        match=r"names 'org/model' as its base, which is not a folder here.*base_name='org/model'",
    ):
        run(stage, tmp_path / "out")
    assert same(begins(replace(stage, base_name="org/model")), tensors(tmp_path / "made"))


def rename(folder, **settings):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")


def refused(stage, tmp_path, words):
    with pytest.raises(TrainingError, match=words):
        run(stage, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"rank": 3}, "r is 2 there and 3 here"),
        ({"alpha": None}, r"lora_alpha is 6\.0 there and 4 here"),
        ({"rslora": True}, "use_rslora is False there and True here"),
        ({"targets": ("v_proj",)}, "is on 28 modules that end in down_proj, .*, and this stage's is on 4 modules that end in v_proj"),
    ],
)  # fmt: skip
def test_another_kind_of_adapter_is_refused(second, tmp_path, lora, words):
    refused(replace(second, lora=replace(LORA, **lora)), tmp_path, words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora is set: DoRA rescales"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is {'q_proj': 3} there"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes"),
        ({"a_setting_to_come": "yes"}, "a_setting_to_come"),
    ],
)
def test_settings_that_a_stage_does_not_have_are_refused(second, first, tmp_path, settings, words):
    shutil.copytree(first, tmp_path / "first")
    rename(tmp_path / "first", **settings)
    refused(replace(second, adapter=tmp_path / "first"), tmp_path, words)


def test_another_base_is_refused(second, first, stage, tmp_path):
    other = write_blank(tmp_path / "other", ["a b c"], vocabulary=300, hidden=64)
    refused(
        replace(second, base=other),
        tmp_path,
        "was trained on .*/base, weights [0-9a-f]{12}…, and this stage's base .*/other has weights",
    )
    shutil.copytree(first, tmp_path / "first")
    (tmp_path / "first" / "training.json").unlink()
    alone = replace(second, adapter=tmp_path / "first")
    assert same(begins(alone), tensors(first))
    refused(
        replace(alone, base=other), tmp_path, "its base .*/base holds other weights than .*/other"
    )
    rename(tmp_path / "first", base_model_name_or_path=None)
    refused(alone, tmp_path, "names None as its base")
    rename(tmp_path / "first", base_model_name_or_path="org/model")
    refused(
        replace(alone, base=other, base_name="org/model"),
        tmp_path,
        r"lora_A.* is \(2, .*\), and \(2, .*\) on this base",
    )


def test_what_is_no_adapter_is_refused(second, first, tmp_path):
    refused(replace(second, adapter=second.base), tmp_path, r"has no adapter_config\.json")
    shutil.copytree(first, tmp_path / "first")
    (tmp_path / "first" / "adapter_model.safetensors").unlink()
    refused(
        replace(second, adapter=tmp_path / "first"), tmp_path, r"has no adapter_model\.safetensors"
    )


def test_more_or_fewer_tensors_are_refused(second, first, tmp_path):
    """Left out in silence, the rest would begin as a fresh adapter does."""
    shutil.copytree(first, tmp_path / "first")
    fewer = {name: one for name, one in tensors(first).items() if "layers.3" not in name}
    save_file(fewer, tmp_path / "first" / "adapter_model.safetensors")
    refused(
        replace(second, adapter=tmp_path / "first"),
        tmp_path,
        "is on 21 modules .* this stage's is on 28 modules",
    )


def test_unlike_by_hand():
    assert (
        adapter_differences(
            {"rank": 8}, {"rank": 8, "alpha": 16.0, "dropout": 0.5, "rslora": False, "targets": ()}
        )
        == ""
    )
    assert adapter_differences({"rank": 8}, {"rank": 4}) == "rank was 8, is 4; alpha was 16, is 8"
    assert adapter_differences(
        {"rank": 8, "targets": ("v", "q")}, {"rank": 8, "targets": ("q", "v"), "rslora": True}
    ) == ("rslora was off, is on")
    assert (
        adapter_differences({"rank": 8}, {"rank": 8, "targets": ("q",)})
        == "targets was every linear layer, is q"
    )
