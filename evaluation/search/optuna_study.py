"""Copies the trials of a search into a study of optuna, which its dashboard reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evaluation.errors import StoreError
from evaluation.search.contract import Space, Trial

if TYPE_CHECKING:
    import optuna


class OptunaStudy:
    """A study in a storage of optuna; it is a copy, and no search reads it.

    A search that goes on after an interruption tells its first trials again; those that are in the
    study already are left out.

    Args:
        storage: what optuna takes: a database URL such as `sqlite:///study.db`, or a file name,
            which becomes optuna's journal and may be on a disk that several machines share.
        name: of the study; made if it does not exist.
        space: the ω with their bounds.

    Raises:
        StoreError: the storage cannot be opened, or its study has other ω.
    """

    def __init__(self, storage: str, name: str, space: Space) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        try:
            opened = storage if "://" in storage else JournalStorage(JournalFileBackend(storage))
            self._study = optuna.create_study(
                storage=opened, study_name=name, direction="minimize", load_if_exists=True
            )
            trials = self._study.get_trials(deepcopy=False)
        # Each kind of storage has errors of its own.
        except Exception as error:
            raise StoreError(f"{storage} cannot be opened by optuna: {error}") from None
        others = {name for trial in trials for name in trial.params} - set(space.names)
        if others:
            raise StoreError(
                f"the study {name!r} in {storage} is of other ω: {', '.join(sorted(others))}."
            )
        self._known = {self._key(trial.params) for trial in trials}

    def add(self, trial: Trial) -> None:
        """Adds a trial with its losses; one that failed has the state FAIL.

        Raises:
            StoreError: the storage cannot be written.
        """
        import optuna
        from optuna.trial import TrialState

        key = self._key(trial.point)
        if key in self._known:
            return
        failed = not math.isfinite(trial.score)
        losses = {} if trial.measured is None else trial.measured.losses
        made = optuna.trial.create_trial(
            state=TrialState.FAIL if failed else TrialState.COMPLETE,
            value=None if failed else trial.score,
            params=dict(trial.point),
            distributions=self._distributions(),
            user_attrs={f"loss of {name}": loss for name, loss in losses.items()},
        )
        try:
            self._study.add_trial(made)
        except Exception as error:
            raise StoreError(f"the trial cannot be written by optuna: {error}") from None
        self._known.add(key)

    def _key(self, params: dict[str, float]) -> tuple[float, ...]:
        return tuple(params[name] for name in self._space.names)

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import FloatDistribution

        return {name: FloatDistribution(*ends) for name, ends in self._space.bounds.items()}
