"""LoRA folders: exact against PEFT's own merge, and everything that is not s·B·A refused by name."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Checkpoint, CheckpointError, LoraVector, MismatchError, merge, open_vector
from merging.inputs.lora_vector import ChunkedProduct, Factors

WEIGHTS = "adapter_model.safetensors"
UP = "model.layers.0.mlp.up_proj"
SQUARE = "model.layers.1.self_attn.q_proj"


def config_of(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


# ---------------------------------------------------------------------------------------------------- worked examples


def test_the_product_with_the_numbers_written_out(tmp_path):
    base = {"up.weight": torch.zeros(2, 3)}
    (tmp_path / "l").mkdir()
    save_file(
        {
            "base_model.model.up.lora_A.weight": torch.tensor([[1.0, 2.0, 3.0]]),
            "base_model.model.up.lora_B.weight": torch.tensor([[10.0], [20.0]]),
        },
        tmp_path / "l" / "adapter_model.safetensors",
    )
    (tmp_path / "l" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 1, "lora_alpha": 2}'
    )
    vector = LoraVector(tmp_path / "l", base)
    assert vector["up.weight"].tolist() == [[20.0, 40.0, 60.0], [40.0, 80.0, 120.0]]  # 2/1 · B·A
    assert vector.block("up.weight", 2, 5).tolist() == [60.0, 40.0, 80.0]
    assert vector.weights_block("up.weight", 2, 4).tolist() == [60.0, 40.0]
    assert (vector.name, vector.rank, len(vector), list(vector)) == ("l", 1, 1, ["up.weight"])
    assert "up.weight" in vector
    assert "down.weight" not in vector


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 6}, 2.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
        ({"lora_alpha": 6, "r": 64}, 2.0),  # the rank is the factors' own
        ({"alpha_pattern": {"up_proj": 9}}, 3.0),
        ({"alpha_pattern": {"down_proj": 9}}, 2.0),
        ({"alpha_pattern": {"mlp": 9}}, 2.0),  # a pattern must end the path
        ({"alpha_pattern": {"mlp.up_proj": 9, "up_proj": 12}}, 3.0),  # the first that matches
        ({"alpha_pattern": {r"layers\.\d+\.mlp\.up_proj": 9}}, 3.0),
        ({"alpha_pattern": {r"^model.layers.0.*": 9}}, 3.0),
        ({"alpha_pattern": {".*up_proj": 9}, "use_rslora": True}, 9 / 3**0.5),
        ({"alpha_pattern": None}, 2.0),
        ({"lora_alpha": 0.5}, 0.5 / 3),
    ],
)
def test_the_scale(config, scale, tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP], rank=3, **config)
    factors = load_file(folder / "adapter_model.safetensors")
    product = (
        factors[f"base_model.model.{UP}.lora_B.weight"]
        @ factors[f"base_model.model.{UP}.lora_A.weight"]
    )
    vector = LoraVector(folder, base)
    assert vector.factors(f"{UP}.weight").scale == pytest.approx(scale)
    torch.testing.assert_close(vector[f"{UP}.weight"], product * scale)


@pytest.mark.parametrize(
    "name", ["layers.0.mlp.up_proj.weight", "base.model.layers.0.mlp.up_proj.weight"]
)
def test_a_prefix_that_one_of_the_two_lacks(name, tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP])
    assert list(LoraVector(folder, {name: base[f"{UP}.weight"]})) == [name]


def test_a_weight_that_the_base_stores_transposed(tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP])
    upright = LoraVector(folder, base)[f"{UP}.weight"]
    assert torch.equal(
        LoraVector(folder, {f"{UP}.weight": torch.zeros(7, 11)})[f"{UP}.weight"], upright.T
    )


def test_the_flag_decides_for_square_matrices(tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [SQUARE])
    upright = LoraVector(folder, base)[f"{SQUARE}.weight"]
    turned = LoraVector(config_of(folder, fan_in_fan_out=True), base)[f"{SQUARE}.weight"]
    assert torch.equal(turned, upright.T)
    assert not torch.equal(turned, upright)


def test_square_matrices_beside_others_that_stand_both_ways_are_refused(tmp_path, llama, adapter):
    base = llama()
    with pytest.raises(
        MismatchError,
        match=rf"stored transposed .*{SQUARE}.weight, which are square, is unknown",
    ):
        LoraVector(adapter(tmp_path / "l", base, [UP, SQUARE], fan_in_fan_out=True), base)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str
)
def test_factors_of_any_dtype_are_computed_in_the_working_dtype(dtype, tmp_path, llama, adapter):
    base = llama(dtype=torch.float64 if dtype == torch.float64 else torch.bfloat16)
    vector = LoraVector(adapter(tmp_path / "l", base, [UP], dtype=dtype), base)
    assert vector[f"{UP}.weight"].dtype == (
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    left, right, scale = vector.factors(f"{UP}.weight")
    torch.testing.assert_close(
        vector[f"{UP}.weight"].double(),
        left.double() @ right.double() * scale,
        rtol=1e-5,
        atol=1e-6,
    )


def test_held_in_memory_it_reads_no_file(tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP])
    vector = LoraVector(folder, base)
    vector.hold_in_memory()
    (folder / "adapter_model.safetensors").unlink()
    assert vector[f"{UP}.weight"].shape == (11, 7)


def test_products_that_are_held_have_the_same_bits_and_are_computed_once(
    tmp_path, llama, adapter, monkeypatch
):
    monkeypatch.setattr("merging.inputs.lora_vector.CHUNK", 20)  # several chunks for each tensor
    monkeypatch.setattr("merging.inputs.lora_vector.ROWS", 1)
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP, SQUARE])
    plain, held = LoraVector(folder, base), LoraVector(folder, base)
    held.hold_products()
    assert held.product_bytes == sum(4 * plain[name].numel() for name in plain)
    computed = []
    multiplied = LoraVector._computed
    monkeypatch.setattr(
        LoraVector,
        "_computed",
        lambda self, name, *span: (
            computed.append((self is held, name)) or multiplied(self, name, *span)
        ),
    )
    for name in held:
        held[name].zero_()  # what is given out is the caller's own
        for start, stop in ((0, 7), (5, 44), (21, 22)):
            wanted = plain.block(name, start, stop)
            assert torch.equal(held.block(name, start, stop), wanted)
            filled = torch.empty(stop - start)
            held.read_delta(name, start, filled, torch.empty(0, dtype=torch.uint8))
            assert torch.equal(filled, wanted)
            assert torch.equal(
                held.weights_block(name, start, stop), plain.weights_block(name, start, stop)
            )
    by_held = [call for call in computed if call[0]]
    assert len(by_held) == len(held) and len(computed) > 2 * len(by_held)


def test_a_chunk_is_multiplied_once_for_all_who_read_a_part_of_it(monkeypatch):
    monkeypatch.setattr("merging.inputs.lora_vector.CHUNK", 21)
    monkeypatch.setattr("merging.inputs.lora_vector.ROWS", 2)
    left, right = torch.randn(40, 3), torch.randn(3, 7)
    product = ChunkedProduct(Factors(left, right, 0.5))
    wanted = ((left @ right) * 0.5).flatten()
    multiplied = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: multiplied.append(len(a)) or matmul(a, b)
    )
    for start in (150, 0, 100, 50, 200, 250):  # chunks of 3 rows, 21 elements; the last has one row
        out = torch.empty(min(50, 280 - start))
        product.read(start, out)
        torch.testing.assert_close(out, wanted[start : start + 50])
    assert sorted(multiplied) == [1, *[3] * 13] and not product._begun


def test_chunks_whose_rest_nobody_reads_do_not_pile_up():
    product = ChunkedProduct(Factors(torch.randn(128 * 40, 1), torch.randn(1, 4099), 1.0))
    for number in range(40):
        product.read(number * 128 * 4099, torch.empty(1))
    assert list(product._begun) == list(range(24, 40))


def test_the_products_of_the_last_tensors_are_kept(tmp_path, llama, adapter):
    base = llama()
    names = [name for name, value in base.items() if value.dim() == 2][:11]
    folder = adapter(tmp_path / "l", base, [name.removesuffix(".weight") for name in names])
    vector = LoraVector(folder, base)
    for name in names:
        assert vector.factors(name) is vector.factors(name)
    assert list(vector._chunked) == names[3:]


def test_two_threads_do_not_get_each_others_factors(tmp_path, llama, adapter):
    base = llama()
    vector = LoraVector(adapter(tmp_path / "l", base, [UP, SQUARE]), base)
    vector.hold_in_memory()
    wanted = {name: vector[name] for name in vector}
    wrong = []

    def read(name):
        wrong.extend(name for _ in range(400) if not torch.equal(vector[name], wanted[name]))

    threads = [threading.Thread(target=read, args=(name,)) for name in wanted for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_digest_follows_weights_and_scaling_and_nothing_else(tmp_path, llama, adapter):
    base = llama()
    digests = [
        LoraVector(adapter(tmp_path / str(i), base, [UP], **config), base).digest
        for i, config in enumerate(
            [{}, {"lora_alpha": 7}, {"use_rslora": True}, {"seed": 3}, {"peft_version": "x"}]
        )
    ]
    assert digests[4] == digests[0]
    assert len(set(digests)) == 4


# ------------------------------------------------------------------------------------------------------- PEFT, oracle


def tiny(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        sizes |= {"n_layer": 2, "n_head": 2, "n_embd": 14, "n_inner": 23, "n_positions": 17}
    else:
        sizes |= {
            "hidden_size": 14,
            "intermediate_size": 23,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 6,
            "max_position_embeddings": 17,
            "tie_word_embeddings": False,
        }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))


PEFT_CASES = {
    "plain": ("llama", {"target_modules": ["q_proj", "up_proj", "down_proj"]}),
    "rslora": ("llama", {"target_modules": ["v_proj"], "use_rslora": True}),
    "alpha_pattern": (
        "llama",
        {
            "target_modules": ["q_proj", "v_proj"],
            "alpha_pattern": {"layers.1.self_attn.q_proj": 11, "v_proj": 3},
        },
    ),
    "rank_pattern": (
        "llama",
        {"target_modules": ["q_proj", "gate_proj"], "rank_pattern": {"gate_proj": 7}},
    ),
    "head": ("llama", {"target_modules": ["lm_head", "o_proj"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "k_proj"]}),
    "qwen2": (
        "qwen2",
        {"target_modules": ["q_proj", "o_proj"], "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    ),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "conv1d square": ("gpt2", {"target_modules": ["attn.c_proj"]}),
    "gpt2 embedding": ("gpt2", {"target_modules": ["wte"]}),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.parametrize("case", PEFT_CASES)
def test_it_equals_what_peft_merges(case, tmp_path, recipe):
    from peft import LoraConfig, get_peft_model

    kind, config = PEFT_CASES[case]
    tiny(kind).save_pretrained(tmp_path / "base")
    base = Checkpoint(tmp_path / "base")
    model = get_peft_model(
        tiny(kind), LoraConfig(task_type="CAUSAL_LM", r=5, lora_alpha=8, **config)
    )
    random = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    merged = model.merge_and_unload().state_dict()

    vector = open_vector(tmp_path / "lora", base)
    result = dict(merge(recipe({"lora": 1.0}), base, {"lora": vector}))
    moved = 0
    for name in base:
        wanted = merged[name]
        torch.testing.assert_close(result[name], wanted, rtol=1e-6, atol=1e-6)
        moved += not torch.equal(wanted, base[name])
    assert moved == len(vector) > 0


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is set: DoRA rescales each column.*merge_and_unload"),
        ({"lora_bias": True}, "lora_bias is set: a trained bias on B"),
        (
            {"modules_to_save": ["lm_head"]},
            "modules_to_save is set: whole modules were trained beside the adapter",
        ),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"target_parameters": ["experts"]}, "target_parameters is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"use_bdlora": {"x": 1}}, "use_bdlora is set"),
        ({"arrow_config": {"k": 1}}, "arrow_config is set"),
        (
            {"megatron_config": {"tensor_model_parallel_size": 2}},
            "megatron_config is set: its layers were Megatron's",
        ),
        ({"kasa_config": {"k": 1}}, "kasa_config is set: KaSA truncates the base's weights"),
        ({"bias": "all"}, "bias is 'all': biases were trained beside the adapter"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa', which changes the base's weights before training",
        ),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4'.*path_initial_model_for_weight",
        ),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        (
            {"init_lora_weights": "lora_ga"},
            "init_lora_weights is 'lora_ga'",
        ),  # W_new = W_old − s·B·A, in PEFT 0.21
        ({"init_lora_weights": ["x"]}, "init_lora_weights is"),
        (
            {"peft_type": "LOHA"},
            "is a LOHA adapter; only LORA adapters are sums of low-rank products",
        ),
        ({"peft_type": None}, "is a None adapter"),
        ({"lora_alpha": None}, "lora_alpha is None, expected a finite number"),
        ({"lora_alpha": "16"}, "lora_alpha is 16, expected a finite number"),
        ({"lora_alpha": 10**4000}, "lora_alpha is 1000.*expected a finite number"),
        ({"alpha_pattern": {"up_proj": "x"}}, "lora_alpha is x"),
        ({"alpha_pattern": ["up_proj"]}, "alpha_pattern is .*expected module names"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern is .*expected module names"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern is"),
        ({"alpha_pattern": {"*": 1}}, "alpha_pattern is"),
        ({"alpha_pattern": {"a**": 1}}, "alpha_pattern is"),
        ({"alpha_pattern": {".*" * 50: 1}}, "alpha_pattern is"),
        ({"alpha_pattern": {"a" * 201: 1}}, "alpha_pattern is"),
        ({"alpha_pattern": {"": 1}}, "alpha_pattern is"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_name(config, message, tmp_path, llama, adapter):
    with pytest.raises(CheckpointError, match=message) as caught:
        LoraVector(adapter(tmp_path / "l", llama(), [UP], **config), llama())
    assert str(tmp_path / "l") in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "use_magic",
            True,
            r"use_magic is 'True', and no such key of PEFT's LoRA is known here\. It",
        ),
        ("use_rsLora", True, "known here; did you mean 'use_rslora'[?] It may add something to"),
        ("extra_scale", 2.0, "extra_scale is '2.0'"),
        ("hyper_config", {"depth": 1}, "hyper_config is .*if it does, merge it into its base"),
        ("added_modules", ["x" * 500], "added_modules is .{,4}x{70,80}., and no such key"),
    ],
)
def test_a_key_that_nobody_knows_is_refused_if_it_says_anything(
    key, value, message, tmp_path, llama, adapter
):
    base = llama()
    with pytest.raises(CheckpointError, match=message):
        LoraVector(adapter(tmp_path / "on", base, [UP], **{key: value}), base)
    for number, off in enumerate((None, False, 0, "", [], {})):
        LoraVector(adapter(tmp_path / f"off{number}", base, [UP], **{key: off}), base)


def test_every_key_of_pefts_own_configuration_is_known_or_refused():
    """A newer PEFT has keys that this list lacks: decide then whether they change s·B·A."""
    from dataclasses import fields

    from peft import LoraConfig

    from merging.inputs.lora_config import _KNOWN, _REFUSED

    assert not set(_KNOWN) & set(_REFUSED)
    # Of earlier versions of PEFT.
    assert {*_KNOWN, *_REFUSED} - {"merge_weights"} == {field.name for field in fields(LoraConfig)}


@pytest.mark.parametrize("start", [None, True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_starts_that_leave_the_base_alone_are_read(start, tmp_path, llama, adapter):
    assert (
        len(LoraVector(adapter(tmp_path / "l", llama(), [UP], init_lora_weights=start), llama()))
        == 1
    )


def test_a_configuration_that_is_none(tmp_path, llama, adapter):
    folder = adapter(tmp_path / "l", llama(), [UP])
    (folder / "adapter_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"adapter_config.json holds no JSON object"):
        LoraVector(folder, llama())


def test_weights_in_a_pickle_or_missing(tmp_path, llama, adapter):
    folder = adapter(tmp_path / "l", llama(), [UP])
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(
        CheckpointError, match=r"holds adapter_model.bin, a pickle that can run code.*save it again"
    ):
        LoraVector(folder, llama())
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(
        CheckpointError, match=r"adapter_model.safetensors cannot be read: No such file"
    ):
        LoraVector(folder, llama())


def rewrite(folder, change):
    factors = load_file(folder / "adapter_model.safetensors")
    change(factors)
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


A, B = f"base_model.model.{UP}.lora_A.weight", f"base_model.model.{UP}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda f: f.pop(B),
            CheckpointError,
            rf"{UP} has only .*lora_A.weight; its other factor is missing",
        ),
        (
            lambda f: f.pop(A),
            CheckpointError,
            rf"{UP} has only .*lora_B.weight; its other factor is missing",
        ),
        (
            lambda f: f.clear(),
            CheckpointError,
            "it has no factors A and B",
        ),
        (
            lambda f: f.update({"x.lora_magnitude_vector": torch.ones(3)}),
            CheckpointError,
            "x.lora_magnitude_vector is not",
        ),
        (
            lambda f: f.update({A: torch.ones(4, 7)}),
            CheckpointError,
            r"A is \[4, 7\] and B is \[11, 3\]; the product B·A does not exist",
        ),
        (
            lambda f: f.update({A: torch.ones(3, 7, 1, 1)}),
            CheckpointError,
            "the product B·A does not exist",
        ),
        (
            lambda f: f.update({A: torch.ones(3, 7).to(torch.int8)}),
            CheckpointError,
            "quantised adapters cannot be merged",
        ),
        (
            lambda f: f.update({A: torch.ones(3, 7).to(torch.float8_e5m2)}),
            CheckpointError,
            "quantised adapters cannot",
        ),
        (
            lambda f: f.update({A: torch.ones(0, 7), B: torch.ones(11, 0)}),
            CheckpointError,
            "lora_alpha is 6",
        ),
        (
            lambda f: f.update({A: torch.ones(3, 5)}),
            MismatchError,
            rf"B·A of {UP} has shape \[11, 5\], and the base's '{UP}.weight' has \[11, 7\]. The adapter was trained on another base",
        ),
        (
            lambda f: f.update({A.replace("up", "un"): f.pop(A), B.replace("up", "un"): f.pop(B)}),
            MismatchError,
            "it adapts 'model.layers.0.mlp.un_proj', and the base has no tensor .*did you mean",
        ),
    ],
)
def test_tensors_that_are_no_lora_of_this_base(change, kind, message, tmp_path, llama, adapter):
    folder = rewrite(adapter(tmp_path / "l", llama(), [UP]), change)
    with pytest.raises(kind, match=message) as caught:
        LoraVector(folder, llama(), "name")
    assert f"name ({folder})" in str(caught.value)


def test_two_modules_for_one_tensor_are_refused(tmp_path, llama, adapter):
    def twice(factors):
        factors.update(
            {
                key.replace("model.layers", "layers"): value.clone()
                for key, value in list(factors.items())
            }
        )

    folder = rewrite(adapter(tmp_path / "l", llama(), [UP]), twice)
    with pytest.raises(
        CheckpointError, match=rf"two adapted modules mean the base's '{UP}.weight'"
    ):
        LoraVector(folder, llama())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_an_adapter_on_a_quantised_base_is_refused(dtype, tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP])
    word = str(dtype).removeprefix("torch.")
    with pytest.raises(
        MismatchError,
        match=rf"the base holds '{UP}.weight' as {word}: quantised weights cannot be merged",
    ):
        LoraVector(folder, base | {f"{UP}.weight": torch.zeros(11, 7).to(dtype)})


def test_the_path_in_the_configuration_is_never_followed(tmp_path, llama, adapter):
    folder = adapter(
        tmp_path / "l",
        llama(),
        [UP],
        base_model_name_or_path="/etc/passwd",
        revision="http://example",
    )
    assert len(LoraVector(folder, llama())) == 1


# ---------------------------------------------------- copies of the base, tied heads, other names


EMBED, HEAD = "model.embed_tokens", "lm_head"
COPY = f"base_model.model.{EMBED}.base_layer.weight"


@pytest.fixture
def with_copy(tmp_path, llama, adapter):
    """Makes an adapter with a copy of the base's embeddings, as PEFT saves it."""

    def make(copy=None, key=COPY, **tensors):
        copy = llama()[f"{EMBED}.weight"] if copy is None else copy
        folder = adapter(tmp_path / "l", llama(), [UP])
        return rewrite(folder, lambda factors: factors.update({key: copy, **tensors}))

    return make


@pytest.mark.parametrize(
    "key", [COPY, COPY.replace(".base_layer", ""), COPY.removeprefix("base_model.model.")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_copy_of_the_bases_own_tensor_changes_nothing(dtype, key, llama, with_copy):
    vector = LoraVector(with_copy(llama()[f"{EMBED}.weight"].to(dtype), key), llama())
    assert list(vector) == [f"{UP}.weight"]
    assert vector.notes == (
        "its file has a copy of the base's model.embed_tokens.weight, equal to it and not needed.",
    )


@pytest.mark.parametrize("row", [0, 17, 30])
def test_a_copy_that_differs_is_refused_with_the_row(row, llama, with_copy, monkeypatch):
    monkeypatch.setattr("merging.inputs.lora_vector.CHUNK", 13)  # no multiple of a row
    copy = llama()[f"{EMBED}.weight"].clone()
    copy[row, 5] = torch.nextafter(copy[row, 5], torch.tensor(9.0))
    with pytest.raises(
        MismatchError,
        match=rf"base_layer.weight is not the base's '{EMBED}.weight' \(they differ from row {row} "
        "on.: it was trained on another base, or these weights were trained beside",
    ):
        LoraVector(with_copy(copy), llama())


def test_a_copy_with_more_rows_is_refused(llama, with_copy):
    with pytest.raises(
        MismatchError, match=r"has shape \[33, 7\], the base's .* has \[31, 7\]: tokens were added"
    ):
        LoraVector(with_copy(torch.ones(33, 7)), llama())


def test_a_trained_bias_that_the_base_lacks_is_named(llama, with_copy):
    bias = f"base_model.model.{UP}.bias"
    with pytest.raises(
        MismatchError, match=rf"it holds {bias}, and the base has no tensor '{UP}.bias'"
    ):
        LoraVector(with_copy(torch.ones(11), bias), llama())


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.parametrize(("tied", "together"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("targets", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_embeddings_and_heads_that_peft_saved(targets, together, tied, tmp_path):
    """As saved by default, with copies. The oracle is the model as it was trained: not merged.

    PEFT's own merge adds the factors of a tied pair twice (0.21), so it is no oracle for them.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    start = tiny("llama")
    start.config.tie_word_embeddings = tied
    if tied:
        start.tie_weights()
    start.save_pretrained(tmp_path / "base")
    base = Checkpoint(tmp_path / "base")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        LoraConfig(r=3, lora_alpha=6, target_modules=targets, ensure_weight_tying=together),
    )
    random = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:  # in place: a tied pair shares its factors
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(tmp_path / "lora")
    assert any(".base_layer." in key for key in load_file(tmp_path / "lora" / WEIGHTS)) or tied
    if tied and "lm_head" in targets and not together:
        with pytest.raises(
            MismatchError, match=r"it adapts 'lm_head', which the base ties to 'model.embed_tokens"
        ):
            LoraVector(tmp_path / "lora", base)
        return
    vector = LoraVector(tmp_path / "lora", base)
    wanted = ["embed_tokens"] if tied else targets
    assert {name.split(".")[-2] for name in vector} == set(wanted)
    if tied and not together:  # told, because merged both modules move
        assert "the base ties its head to model.embed_tokens.weight, which it adapts" in str(
            vector.notes
        )
        return
    ids = torch.tensor([[3, 7, 11, 2, 29]])
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        goal = model.eval()(ids).logits
        for name in vector:
            merged.get_parameter(name).add_(vector[name])
        torch.testing.assert_close(merged.eval()(ids).logits, goal, rtol=1e-4, atol=1e-5)


def test_a_copy_of_a_tied_head_is_compared_with_the_embeddings(tmp_path, llama, with_copy):
    key = f"base_model.model.{HEAD}.base_layer.weight"
    base = llama(tied=True)
    assert len(LoraVector(with_copy(base[f"{EMBED}.weight"], key), base)) == 1
    rewrite(tmp_path / "l", lambda f: f.update({key: f[key] + 1}))
    with pytest.raises(MismatchError, match=rf"is not the base's '{EMBED}.weight' .*row 0"):
        LoraVector(tmp_path / "l", base)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.replace(".weight", ".my-adapter.weight"),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace("model.layers", "layers"),
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: key.replace("mlp.", "_checkpoint_wrapped_module.mlp."),
        lambda key: key.replace("model.layers", "model.language_model.layers"),
    ],
)
def test_other_keys_for_the_same_modules(rename, tmp_path, llama, adapter):
    base = llama()
    folder = adapter(tmp_path / "l", base, [UP, SQUARE])
    wanted = dict(LoraVector(folder, base))
    factors = {rename(k): v for k, v in load_file(folder / WEIGHTS).items()}
    save_file(factors, folder / WEIGHTS)
    vector = LoraVector(folder, base)
    assert {name: value.tolist() for name, value in vector.items()} == {
        name: value.tolist() for name, value in wanted.items()
    }
    moved = any(
        k.removeprefix("base_model.model.").split(".lora_")[0] not in (UP, SQUARE) for k in factors
    )
    assert [("by renaming" in note) for note in vector.notes] == [True] * moved


def test_factors_of_two_adapters_in_one_file(tmp_path, llama, adapter):
    folder = adapter(tmp_path / "l", llama(), [UP])
    rewrite(folder, lambda f: f.update({A.replace("lora_A", "lora_A.other"): torch.ones(3, 7)}))
    with pytest.raises(
        CheckpointError, match=r"holds factors of several adapters, such as .*other"
    ):
        LoraVector(folder, llama())


def test_an_adapter_that_fits_two_stacks_is_refused_with_both(tmp_path, llama, adapter):
    base = {f"{part}.layers.0.up.weight": torch.ones(11, 7) for part in ("encoder", "decoder")}
    folder = adapter(tmp_path / "l", {"x.layers.0.up.weight": torch.ones(11, 7)}, ["x.layers.0.up"])
    with pytest.raises(MismatchError, match=r"fit by x → \w+coder as well as by x → \w+coder"):
        LoraVector(folder, base)


@pytest.fixture(scope="module")
def two_towers():
    """A llava whose towers have layers of one shape."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    sizes = {
        "hidden_size": 14,
        "intermediate_size": 23,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
    }
    config = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": 31, **sizes},
        vision_config={
            "model_type": "clip_vision_model",
            "image_size": 4,
            "patch_size": 2,
            **sizes,
        },
    )

    def make():
        torch.manual_seed(0)
        return LlavaForConditionalGeneration(config)

    return make


@pytest.mark.parametrize(
    "targets", [["k_proj", "linear_1"], r".*language_model.*k_proj", r".*vision_tower.*k_proj"]
)
def test_an_adapter_of_several_modalities(targets, tmp_path, two_towers, recipe):
    """PEFT's paths are those of the loaded model, and the file has transformers 4's names."""
    from peft import LoraConfig, get_peft_model

    two_towers().save_pretrained(tmp_path / "base")
    model = get_peft_model(two_towers(), LoraConfig(r=3, target_modules=targets))
    random = torch.Generator().manual_seed(9)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(tmp_path / "lora")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    base, wanted = Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "merged")
    vector = open_vector(tmp_path / "lora", base)
    assert "by renaming" in vector.notes[0]
    moved = {name for name in base if not torch.equal(wanted[name], base[name])}
    assert moved == set(vector) and moved
    for name, value in merge(recipe({"lora": 1.0}), base, {"lora": vector}):
        torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=1e-6)


def test_one_module_adapted_as_embedding_and_as_linear(tmp_path, llama, adapter):
    folder = adapter(tmp_path / "l", llama(), [EMBED])
    pair = {
        f"base_model.model.{EMBED}.lora_embedding_A": torch.ones(3, 31),
        f"base_model.model.{EMBED}.lora_embedding_B": torch.ones(7, 3),
    }
    rewrite(folder, lambda factors: factors.update(pair))
    with pytest.raises(
        CheckpointError, match=rf"two adapted modules mean the base's '{EMBED}.weight'"
    ):
        LoraVector(folder, llama())
