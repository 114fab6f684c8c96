"""What follows from a wish, beyond test_routes.py: derivatives are measured while nobody waits."""

from corpus.prompts import Asked
from workbench.line.answers import Answer
from workbench.line.continuation import continuation
from workbench.line.contract import Wish
from workbench.line.scheduler import Rank
from workbench.search.points import Points
from workbench.session.loss_on_axis import FULL

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}<assistant>"


def answer_to(session, omegas, **more):
    models = session.models
    wish = Wish("page-1234", 1, models.key, "task_arithmetic", {}, omegas, **more)
    return Answer(session, wish, None, lambda: False)


def messages(answer, until=Rank.SLOPES):
    """All that an answer says before the phases of this rank."""
    said = []
    for rank, steps in answer.phases():
        if rank is until:
            break
        said += [message for message in steps if message]
    return said


def test_an_answer_says_in_which_form_it_was_asked(session, monkeypatch):
    monkeypatch.setattr(session.models.tokenizer(), "chat_template", TEMPLATE)
    asked = {
        False: Asked("<user>6 + 7 =;<assistant>", "in the chat template"),
        True: Asked("6 + 7 =", "as plain text"),
    }
    for plain, question in asked.items():
        answer = answer_to(session, {"ada": 0.5}, prompt="6 + 7 =", plain=plain)
        *growing, last = [each for each in messages(answer) if each["stage"] == "answer"]
        assert growing and {each["form"] for each in (*growing, last)} == {question.form}
        alone = continuation(session, session.models, answer.recipe, question)
        assert last["text"] == "".join(alone)


def test_a_question_that_cannot_be_asked_takes_away_no_loss(session):
    answer = answer_to(session, {"ada": 0.5}, prompt="x" * 1000)
    said = messages(answer)
    (problem,) = [each["problem"] for each in said if each["stage"] == "answer"]
    assert "the prompt is 1000 tokens long, the model reads at most 128" in problem
    assert [each["whole"] for each in said if each["stage"] == "full"][-1]


def test_derivatives_come_last_and_give_way_to_whoever_measures(session):
    models, omegas = session.models, {"ada": 0.123, "bob": 0.0, "lora": 0.456}
    points, here = Points(session, models), answer_to(session, omegas)
    ranks = []
    for rank, steps in here.phases():
        ranks.append(rank)
        if rank is not Rank.SLOPES:
            list(steps)
            continue
        assert not points.has_slopes(omegas)
        # A table is being measured in another thread: nothing happens until it is done.
        with session.spending.tally() as tally:
            other = session.recipe({"bob": 0.789})
            table = session.measuring.steps(models, other, FULL, lambda: False, tally)
            assert next(table).measuring.composition == 1
            next(table)
            assert session.measuring.busy
            assert [next(steps) for _ in range(3)] == [None] * 3
            assert not points.has_slopes(omegas)
            list(table)
        assert not session.measuring.busy
        *_, last = list(steps)
        assert last["stage"] == "learned" and points.has_slopes(omegas)
        break
    assert ranks.index(Rank.SLOPES) == len(ranks) - 1


def test_what_is_known_is_not_measured_again(session):
    points = Points(session, session.models)
    base = dict.fromkeys(session.models.names, 0.0)
    for omegas in ({"ada": 0.123, "bob": 0.0, "lora": 0.456}, base):
        for _ in points.slope_steps(omegas, lambda: False):
            pass
    here = answer_to(session, {"ada": 0.123, "bob": 0.0, "lora": 0.456})
    ranks = []
    for rank, steps in here.phases():
        ranks.append(rank)
        list(steps)
    assert Rank.SLOPES not in ranks


def test_a_step_ends_for_whoever_waits_for_the_module(session):
    models, omegas = session.models, {"ada": 0.21, "bob": 0.0, "lora": 0.43}
    asked = 0

    def waited():
        nonlocal asked
        asked += 1
        return asked < 30

    wish = Wish("page-1234", 1, models.key, "task_arithmetic", {}, omegas)
    answer = Answer(session, wish, None, lambda: False, waited)
    for rank, steps in answer.phases():
        if rank is Rank.SLOPES:
            # Nothing is measured, and nothing is lost, while another page waits.
            assert [next(steps) for _ in range(20)] == [None] * 20 and asked == 20
            *_, last = list(steps)
            assert last["stage"] == "learned" and Points(session, models).has_slopes(omegas)
            break
        list(steps)


def test_losses_are_awaited_from_the_composition_to_the_last_of_them(session):
    """In between an answer that gives way would compose something else, and the page its own again."""
    seen = []
    for rank, steps in answer_to(session, {"ada": 0.21}).phases():
        seen.append((rank, session.measuring.busy))
        list(steps)
    assert [rank for rank, busy in seen if busy] == [
        Rank.SETTLE,
        Rank.QUICK,
        Rank.ANSWER,
        Rank.FULL,
    ]
    assert not session.measuring.busy
