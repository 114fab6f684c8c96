"""Trials in a study of optuna: whole, once, and readable by its dashboard."""

import json
import math
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from evaluation.errors import StoreError
from evaluation.search.contract import Measured, Space, Trial
from evaluation.search.optuna_study import OptunaStudy

SPACE = Space({"cot": (0.0, 1.0), "p3": (-1.0, 2.0), "sni": (0.5, 0.5)})


def trial(omega, score, **losses):
    point = {"cot": omega, "p3": -0.25, "sni": 0.5}
    return Trial(point, score, Measured(losses) if losses else None)


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
    return f"sqlite:///{tmp_path}/s.db" if request.param == "sqlite" else str(tmp_path / "s.log")


def trials_of(storage):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    opened = storage if "://" in storage else JournalStorage(JournalFileBackend(storage))
    return optuna.load_study(study_name="ω", storage=opened).trials


def test_a_trial_keeps_its_point_its_score_and_its_losses(storage):
    study = OptunaStudy(storage, "ω", SPACE)
    study.add(trial(0.25, 0.61, cot=0.2, p3=1.02))
    study.add(trial(0.5, math.inf))
    good, failed = trials_of(storage)
    assert good.params == {"cot": 0.25, "p3": -0.25, "sni": 0.5} and good.value == 0.61
    assert good.user_attrs == {"loss of cot": 0.2, "loss of p3": 1.02}
    assert failed.state == optuna.trial.TrialState.FAIL and failed.value is None


def test_a_search_that_goes_on_adds_no_trial_twice(storage):
    for _ in range(2):
        study = OptunaStudy(storage, "ω", SPACE)
        for cot in (0.1, 0.2, 0.1):
            study.add(trial(cot, cot))
    assert [each.params["cot"] for each in trials_of(storage)] == [0.1, 0.2]


def test_a_study_of_other_omegas_and_a_broken_storage_are_refused(storage, tmp_path):
    OptunaStudy(storage, "ω", SPACE).add(trial(0.1, 0.1))
    with pytest.raises(StoreError, match="is of other ω: p3, sni"):
        OptunaStudy(storage, "ω", Space({"cot": (0.0, 1.0)}))
    for wrong in (
        f"sqlite:///{tmp_path}/no/where/s.db",
        "nonsense://x",
        str(tmp_path / "no" / "s"),
    ):
        with pytest.raises(StoreError, match="cannot be opened by optuna"):
            OptunaStudy(wrong, "ω", SPACE)


def test_the_dashboard_opens_it(tmp_path):
    from optuna_dashboard import wsgi

    storage = f"sqlite:///{tmp_path}/s.db"
    study = OptunaStudy(storage, "ω", SPACE)
    study.add(trial(0.25, 0.61, cot=0.2))
    app, answers = wsgi(storage), []

    def ask(path):
        environment = {"PATH_INFO": path}
        setup_testing_defaults(environment)
        body = b"".join(app(environment, lambda status, headers, *rest: answers.append(status)))
        assert answers[-1].startswith("200"), body
        return json.loads(body)

    (listed,) = ask("/api/studies")["study_summaries"]
    assert listed["study_name"] == "ω"
    detail = ask(f"/api/studies/{listed['study_id']}")
    (shown,) = detail["trials"]
    assert shown["values"] == [0.61]
    assert {each["name"]: each["param_internal_value"] for each in shown["params"]}["cot"] == 0.25
