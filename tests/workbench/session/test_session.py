"""The session's promises: exact compositions, nothing lost by a failed open, overtaken work dropped, jobs that end."""

import math
import shlex
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from corpus import Chat, CorpusError, Message, write_jsonl
from corpus.prompts import Asked, Prompt
from evaluation.errors import Stopped
from merging.errors import MergingError
from merging.recipe import read_recipe
from tests.workbench.conftest import measuring
from workbench.cli import main
from workbench.errors import SessionError
from workbench.jobs import export
from workbench.line.continuation import continuation
from workbench.session.folders import Folders
from workbench.session.session import Session
from workbench.session.standing import Standing

QUESTION = Asked("ada 3 + 0 =", "as plain text")


def weights(session, recipe):
    with session.composed(session.models, recipe) as module:
        return {key: value.clone() for key, value in module.state_dict().items()}


def test_the_demo_opens_with_its_order_and_best_omegas(session):
    assert session.models.names == ["ada", "bob", "lora"]
    assert session.standing == Standing((0.5, -0.25, 0.75))
    assert session.models.memory.startswith("held in memory")


def test_the_live_module_is_the_same_bits_after_any_history(session):
    wanted = session.recipe((0.3, 0.0, -0.7))
    first = weights(session, wanted)
    for omegas in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (-1.0, 2.0, 0.1)):
        session.compose(session.recipe(omegas))
    again = weights(session, wanted)
    assert all(torch.equal(first[key], again[key]) for key in first)
    moved = weights(
        session, session.recipe((0.31, 0.0, -0.7))
    )  # the twin: another ω gives other weights
    assert not all(torch.equal(first[key], moved[key]) for key in first)


def test_measuring_goes_from_quick_to_exact(session):
    shown = list(measuring(session, session.recipe((0.5, 0.0, 0.0))))
    assert list(shown[-1]) == ["ada", "bob", "lora"]
    assert all(point.loss.n == 23 and not point.quick for point in shown[-1].values())
    quick = next(points for points in shown if len(points) == 3)
    assert all(point.quick and 2 <= point.loss.n < 23 for point in quick.values())


def test_an_expert_alone_recovers_all_of_its_gain(session):
    *_, last = measuring(session, session.recipe(session.models.preset("only:bob")))
    point = last["bob"]
    assert point.loss.value == point.expert.value
    *_, last = measuring(session, session.recipe(session.models.preset("base")))
    assert all(point.loss.value == point.base.value for point in last.values())


def test_what_was_measured_is_not_measured_again(session, monkeypatch):
    recipe = session.recipe((0.5, 0.25, 0.0))
    before = session.losses(recipe)

    def never(*values, **more):
        raise AssertionError("measured again")

    monkeypatch.setattr("evaluation.loss.Sweep.step", never)
    assert session.losses(recipe) == before


def test_overtaken_work_stops_and_the_last_wish_lands(session):
    first = session.tickets.ticket("page")
    stream = measuring(session, session.recipe((0.1, 0.1, 0.1)), first)
    next(stream)
    second = session.tickets.ticket("page")
    other = session.tickets.ticket("another page")
    assert first() and not second() and not other()
    with pytest.raises(Stopped):
        next(stream)
    wanted = session.recipe((0.2, 0.2, 0.2))
    *_, last = measuring(session, wanted, second)
    assert {name: point.loss for name, point in last.items()} == session.losses(wanted)


@pytest.mark.parametrize("omega", [math.nan, math.inf, -math.inf, 2.5, -1.01, "1"])
def test_an_omega_that_is_no_number_of_the_range_is_refused(session, omega):
    with pytest.raises(SessionError, match=r"ω of bob is .*; give a number from -1 to 2"):
        session.recipe((0.0, omega, 0.0))


def test_minus_zero_is_the_base(session):
    assert session.recipe((-0.0, 0.0, 0.0)).digest == session.recipe((0.0, 0.0, 0.0)).digest


def test_a_failed_open_keeps_everything(session, world, tmp_path):
    models, recipe = session.models, session.recipe((0.5, 0.0, 0.0))
    before = weights(session, recipe)
    broken = world / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"not weights at all")
    try:
        with pytest.raises((MergingError, SessionError), match="broken"):
            session.open(world / "base", [(world / "ada", None), (broken, None)], world / "data")
    finally:
        (broken / "model.safetensors").unlink()
        broken.rmdir()
    with pytest.raises(SessionError, match="outside the folders"):
        session.add_checkpoint(tmp_path)
    assert session.models is models
    after = weights(session, recipe)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_checkpoints_come_and_go(session, world):
    session.remove("bob")
    assert session.models.names == ["ada", "lora"]
    session.add_checkpoint(world / "bob", "robert")
    assert session.models.names == ["ada", "lora", "robert"]
    with pytest.raises(SessionError, match="no vector is called 'nobody'"):
        session.remove("nobody")


def test_presets(session):
    assert session.models.preset("base") == (0.0, 0.0, 0.0)
    assert session.models.preset("uniform") == (0.33, 0.33, 0.33)
    assert session.models.preset("best") == (0.5, -0.25, 0.75)
    assert session.models.preset("only:lora") == (0.0, 0.0, 1.0)


def test_answers_stream_and_name_their_composition(session):
    recipe = session.recipe((0.5, 0.0, 0.0))
    whole = "".join(continuation(session, session.models, recipe, QUESTION, max_new_tokens=7))
    again = "".join(continuation(session, session.models, recipe, QUESTION, max_new_tokens=7))
    assert whole == again
    assert (
        "".join(continuation(session, session.models, recipe, QUESTION, stale=lambda: True)) == ""
    )


def test_an_abandoned_answer_does_not_hold_the_module(session):
    stream = continuation(
        session, session.models, session.recipe((0.5, 0.0, 0.0)), QUESTION, max_new_tokens=64
    )
    next(stream, None)
    stream.close()
    done = threading.Event()
    threading.Thread(
        target=lambda: (session.compose(session.recipe((0.0, 0.0, 0.0))), done.set())
    ).start()
    assert done.wait(10)


def test_interference_is_the_loss_under_each_vector_alone(session):
    assert session.known_interference() is None
    *_, (values, errors) = session.interference()
    assert values.shape == errors.shape == (3, 3) and np.isfinite(values).all()
    assert values[1, 0] == session.losses(session.recipe((0.0, 1.0, 0.0)))["ada"].value
    known = session.known_interference()
    assert known is not None and np.array_equal(known[0], values)


def test_geometry_is_computed_once(session):
    geometry = session.models.measured_geometry()
    assert geometry.vectors == ("ada", "bob", "lora") and session.models.has_geometry
    assert session.models.measured_geometry() is geometry


def test_an_export_is_verified_and_loads_as_the_live_model(session):
    from transformers import AutoModelForCausalLM

    from merging import verify

    recipe = session.recipe((0.5, -0.25, 0.75))
    job = session.jobs.wait(export.submit(session, recipe, "first", None).id)
    assert job.state == "done", job.error
    verify(job.result)
    exported = AutoModelForCausalLM.from_pretrained(job.result).state_dict()
    live = weights(session, recipe)
    assert all(torch.equal(exported[key], live[key]) for key in live)
    with pytest.raises(SessionError, match="exists already"):
        export.submit(session, recipe, "first", None)


def test_the_card_of_an_export_makes_it_again_beside_itself(session):
    """From the recipe that is inside: whatever is cleared from the workdir by then."""
    recipe = session.recipe((0.5, -0.25, 0.75))
    job = session.jobs.wait(export.submit(session, recipe, "small", "float16", 30_000).id)
    lines = (Path(job.result) / "README.md").read_text().splitlines()
    command = next(line for line in lines if line.startswith("    dem merge "))
    shutil.rmtree(session.workdir.recipes)
    assert main(shlex.split(command)[1:]) == 0
    for file in Path(job.result).glob("*.safetensors"):
        assert (Path(f"{job.result}-again") / file.name).read_bytes() == file.read_bytes()
    assert len(list(Path(job.result).glob("*.safetensors"))) > 1
    assert "--shard-gb 3e-05" in job.command and "--dtype float16" in job.command


def test_what_rounding_costs_is_measured_for_the_dtype_asked_for(session):
    from evaluation.errors import Stopped

    recipe = session.recipe((0.5, -0.25, 0.75))
    cost = export.rounding(session.models, recipe, "bfloat16")
    assert cost.dtypes == ("bfloat16",) and 0 < cost.total["lost"] < 0.5
    assert export.rounding(session.models, recipe, None).total["lost"] == 0.0
    with pytest.raises(Stopped):
        export.rounding(session.models, recipe, "bfloat16", lambda: True)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", ".hidden", "a" * 65, "a\nb", "$(x)"])
def test_export_names_are_plain(session, name):
    with pytest.raises(SessionError, match="folder name"):
        session.workdir.export(name)


def test_the_command_of_a_composition_names_a_recipe_that_reads_back(session):

    recipe = session.recipe((0.5, -0.25, 0.75))
    assert read_recipe(session.workdir.save_recipe(recipe)).omegas == recipe.omegas


def test_folders_stay_inside_their_roots(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "m", outside / "m"):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    (inside / "link").symlink_to(outside / "m")
    folders = Folders([inside])
    assert [found.label for found in folders.models()] == ["in/m"]
    for path in (outside / "m", inside / "link", inside / ".." / "out" / "m", "/etc"):
        with pytest.raises(SessionError, match="outside the folders"):
            folders.resolve(path)
    assert folders.resolve(inside / "m") == (inside / "m").resolve()


def test_a_checkpoint_of_another_vocabulary_is_refused_or_leaves_the_embeddings(
    session, world, tmp_path
):
    base = load_file(world / "base" / "model.safetensors")
    tall = shutil.copytree(world / "ada", world / "tall")
    try:
        tuned = load_file(tall / "model.safetensors")
        (embeddings,) = [key for key in tuned if "embed_tokens" in key]
        tuned[embeddings] = torch.cat([tuned[embeddings], tuned[embeddings][:2]])
        save_file(tuned, tall / "model.safetensors", metadata={"format": "pt"})
        chosen = [(world / "bob", None), (tall, None)]
        with pytest.raises(
            SessionError, match="tall.* has another vocabulary.*dem.vocabulary: base"
        ):
            session.open(world / "base", chosen, world / "data")
        with pytest.raises(SessionError, match="Write it in a recipe and run dem merge"):
            session.open(world / "base", chosen, world / "data", "union")
        models = session.open(world / "base", chosen, world / "data", "base")
        assert any("its vocabulary is not the base's" in note for note in models.notes)
        recipe = session.recipe((0.0, 1.0))
        assert recipe.vocabulary == "base"
        now = weights(session, recipe)
        assert torch.equal(now["model.embed_tokens.weight"], base[embeddings])
        assert not torch.equal(now["model.norm.weight"], base["model.norm.weight"])
        _, again = models.reopened()
        assert not again["tall"][embeddings].any() and again["bob"][embeddings].any()
        assert list(session.remove("bob").vectors) == ["tall"]  # and the choice stays
    finally:
        shutil.rmtree(tall)


def test_chats_are_data_to_measure_where_the_base_has_a_template(world, tmp_path):
    place = shutil.copytree(world, tmp_path / "world")
    chat = Chat(
        (
            Message("user", "ab"),
            Message("assistant", "ba"),
            Message("user", "b"),
            Message("assistant", "a"),
        )
    )
    write_jsonl(place / "data" / "talk" / "validation.jsonl", [chat] * 3)
    made = Session([place], tmp_path / "workdir")
    folders = place / "base", [(place / "ada", None)], place / "data"
    with pytest.raises(
        CorpusError,
        match="(?s)dataset 'talk', 3 of 3 records.*line 1; line 2; line 3: a chat needs a chat template",
    ):
        made.open(*folders)
    assert not made.ready
    template = place / "base" / "chat_template.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    talk = made.open(*folders).data["talk"]
    assert talk.prompts[0] == Prompt("ab", "user:ab;assistant:")
    assert talk.prepared["full"].datasets[0].n == 3
    losses = made.losses(made.recipe([0.5]))
    assert losses["talk"].value > 0
    template.write_text(template.read_text().replace(";", "."))
    assert made.open(*folders).data["talk"].keys != talk.keys
    made.close()
