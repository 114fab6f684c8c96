"""Every merge method on the session: composed live as it is exported, measured as itself, refused without a trace."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging.errors import MergingError
from merging.methods import _contract as methods
from merging.recipe import read_recipe
from tests.workbench.conftest import measuring
from workbench.errors import SessionError
from workbench.jobs import export
from workbench.session.standing import Choice, Standing, live_methods

REQUIRED = {"slerp": {"t": 0.25}, "nearswap": {"t": 0.01}}
WEIGHED, ONE, TWO, NONE = (0.5, -0.25, 0.75), (0.5, 0.0, 0.0), (0.5, 0.0, 0.75), (0.0, 0.0, 0.0)


def weights(session, recipe):
    with session.composed(session.models, recipe) as module:
        return {key: value.clone() for key, value in module.state_dict().items()}


def chosen(method, **parameters):
    return Choice.of(method, REQUIRED.get(method, {}) | parameters)


@pytest.mark.parametrize("method", live_methods(3))
def test_every_method_composes_or_says_why_not(session, method):
    composed = []
    for omegas in (WEIGHED, ONE, TWO, NONE):
        before = session.standing
        try:
            session.compose(session.settle(Standing(omegas, chosen(method))))
            composed.append(omegas)
            assert session.standing == Standing(omegas, chosen(method))
        except (MergingError, SessionError) as error:
            assert session.standing == before
            assert str(error).endswith(".") and method in str(error)
    assert composed  # whatever a method's span is, some choice of these three vectors meets it
    # all at 0 is the base, where there are deltas to multiply; elsewhere nothing is left to combine
    free = methods.load(method).weighted and methods.load(method).vectors == (1, None)
    assert (NONE in composed) == (free and methods.load(method).space != "weights")


@pytest.mark.parametrize(
    ("choice", "omegas"),
    [
        (chosen("ties", density=0.4), WEIGHED),
        (chosen("dare_ties", density=0.5), WEIGHED),
        (chosen("linear"), (0.5, 0.25, 0.75)),
        (chosen("slerp"), (0.0, 0.3, 0.0)),
        (chosen("nuslerp"), TWO),
        (chosen("karcher"), TWO),
        (chosen("iso_c"), WEIGHED),
        (chosen("metagpt"), TWO),
    ],
    ids=lambda value: value.method if isinstance(value, Choice) else "",
)
@pytest.mark.slow
def test_under_any_method_the_export_is_the_live_model_bit_for_bit(session, choice, omegas):
    from transformers import AutoModelForCausalLM

    from merging import merge, open_recipe, verify

    recipe = session.settle(Standing(omegas, choice))
    job = session.jobs.wait(export.submit(session, recipe, "made", None).id)
    assert job.state == "done", job.error
    verify(job.result)
    live = weights(session, recipe)
    exported = AutoModelForCausalLM.from_pretrained(job.result).state_dict()
    assert all(torch.equal(exported[key], live[key]) for key in live)
    # and the file that the command line is given is that recipe, in the export too
    saved = read_recipe(session.workdir.save_recipe(recipe))
    assert saved.digest == recipe.digest and saved.method == choice.method
    assert (job.result and read_recipe(f"{job.result}/recipe.yml").parameters) == dict(
        choice.parameters
    )
    again = dict(merge(saved, *open_recipe(saved)))
    assert all(torch.equal(again[key], live[key]) for key in again)
    plain = weights(session, session.recipe(omegas))
    assert not all(
        torch.equal(plain[key], live[key]) for key in live
    )  # the twin: it is not the plain sum


def test_losses_are_of_the_method_and_its_parameters(session):
    plain, ties = session.recipe(WEIGHED), session.recipe(WEIGHED, chosen("ties"))
    trimmed = session.recipe(WEIGHED, chosen("ties", density=0.2))
    found = [session.losses(recipe)["ada"].value for recipe in (plain, ties, trimmed)]
    assert len(set(found)) == 3
    assert len({session.models.identity(recipe) for recipe in (plain, ties, trimmed)}) == 3
    assert [session.losses(recipe)["ada"].value for recipe in (plain, ties, trimmed)] == found
    *_, last = measuring(session, trimmed)
    assert last["ada"].loss.value == found[2]
    # the ends of the axis stay the base and the expert themselves
    *_, alone = measuring(session, session.recipe((1.0, 0.0, 0.0)))
    assert last["ada"].expert.value == alone["ada"].loss.value


def test_parameters_at_their_defaults_are_no_other_composition(session):
    assert (
        session.recipe(WEIGHED, chosen("task_arithmetic")).digest == session.recipe(WEIGHED).digest
    )
    at_default = session.recipe(WEIGHED, chosen("ties", density=1.0, normalize=True))
    assert at_default.digest == session.recipe(WEIGHED, chosen("ties")).digest
    assert session.recipe(WEIGHED, chosen("ties", density=0.9)).digest != at_default.digest


def test_a_vector_at_zero_takes_no_part_where_the_method_has_no_omega(session):
    recipe = session.recipe(TWO, chosen("sce"))
    assert [source.name for source in recipe.models] == ["ada", "lora"]
    assert set(recipe.inputs) == {"base", "ada", "lora"}
    assert session.recipe((1.5, 0.0, -0.5), chosen("sce")).digest == recipe.digest
    with pytest.raises(
        SessionError, match="sce combines the vectors whose ω is not 0, and all are 0"
    ):
        session.recipe(NONE, chosen("sce"))


def test_more_omegas_than_vectors_mean_that_other_models_were_opened(session):
    with pytest.raises(
        SessionError,
        match="this page has 4 ω, but 3 vectors are open: other models were opened. Reload this page",
    ):
        session.recipe((0.0, 0.0, 0.0, 0.0))


def test_what_only_composing_can_tell_leaves_the_module_whole(session, world):
    """Directions that cancel: ada, its mirror image, and a checkpoint that is the base itself."""
    base, ada = (load_file(world / name / "model.safetensors") for name in ("base", "ada"))
    try:
        for name, tensors in (
            ("mirror", {key: 2 * base[key] - ada[key] for key in base}),
            ("still", base),
        ):
            shutil.copytree(world / "base", world / name)
            save_file(tensors, world / name / "model.safetensors", metadata={"format": "pt"})
        session.open(
            world / "base",
            [(world / name, None) for name in ("ada", "mirror", "still")],
            world / "data",
        )
        good = session.settle(Standing((0.5, 0.25, 1.0)))
        before = weights(session, good)
        bad = session.settle(Standing((0.5, 0.5, 0.5), chosen("multislerp", eps=0.001)))
        with pytest.raises(MergingError, match="cancel"):
            session.compose(bad)
        after = weights(session, good)
        assert all(torch.equal(before[key], after[key]) for key in before)
    finally:
        shutil.rmtree(world / "mirror", ignore_errors=True)
        shutil.rmtree(world / "still", ignore_errors=True)
