"""How many processes there are, by the variables that each launcher really sets."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from training.errors import TrainingError
from training.run.launch import is_main, leaves_unused, process_count

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        (TORCHRUN, 2),
        (TORCHRUN | {"ACCELERATE_USE_CPU": "True", "SLURM_STEP_NUM_TASKS": "2"}, 2),
        ({"ACCELERATE_USE_CPU": "True"}, 1),  # accelerate launch --cpu
        ({"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "10.0.0.1"}, 1),  # a pod that sets the address for all
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"SLURM_NTASKS": "4"}, 1),  # a shell of salloc, without srun
        ({"PMI_SIZE": ""}, 1),
    ],
)  # fmt: skip
def test_the_processes_that_there_are(environment, count):
    assert process_count(environment) == count


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "on CPUs and has started only this"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "started 2 processes"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, "started 8 processes"),
    ],
)  # fmt: skip
def test_processes_that_cannot_find_each_other_are_refused(environment, words):
    with pytest.raises(TrainingError, match=f"{words}.*torchrun --standalone"):
        process_count(environment)


def test_deepspeed_is_refused_with_what_takes_its_place():
    with pytest.raises(TrainingError, match=r"DeepSpeed, whose states.*Configure FSDP"):
        process_count(TORCHRUN | {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_the_first_process_writes():
    assert is_main({}) and is_main({"RANK": "0"}) and not is_main(TORCHRUN)


def tiny(layers=2, **more):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 32,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": layers,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**(shape | heads | more)))


@pytest.mark.parametrize(
    ("change", "unused"),
    [
        (lambda model: None, False),
        (lambda model: model.model.layers[0].requires_grad_(False), False),  # frozen is not trained
        (lambda model: model.register_module("head", torch.nn.Linear(2, 2)), True),
    ],
    ids=["dense", "frozen", "a head that is not called"],
)
def test_parameters_without_a_gradient_are_found_and_the_model_is_as_before(change, unused):
    model = tiny(model_type="llama", attention_dropout=0.5)
    change(model)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert leaves_unused(model, [3, 4, 5] * 9) is unused
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(each.grad is None for each in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_experts_may_be_left_out_by_any_batch():
    moe = tiny(
        model_type="mixtral", num_local_experts=4, num_experts_per_tok=1, attention_dropout=0.0
    )
    assert leaves_unused(moe, [1, 2])
