"""What `dem search` reads: its options with a form of their own, the recipe, the models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.shared import resolver

if TYPE_CHECKING:
    from merging import Recipe
    from workbench.search.wanted import TaskAim
    from workbench.session.models import Models
    from workbench.session.session import Session
    from workbench.session.standing import Choice


def preference(text: str) -> tuple[str, float]:
    """Return the dataset and the weight of NAME=W.

    Raises:
        SessionError: it has another form.
    """
    from workbench.errors import SessionError

    name, _, weight = text.rpartition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise SessionError(f"--prefer is {text!r}, expected NAME=W such as cot=2.") from None


def plain_omegas(recipe: "Recipe") -> dict[str, float]:
    """Return the ω of a recipe.

    Raises:
        SessionError: one is no single number.
    """
    from workbench.errors import SessionError

    for name, omega in recipe.omegas.items():
        if not isinstance(omega, int | float):
            raise SessionError(f"ω of {name} is no single number, so a search cannot begin there.")
    return {name: float(omega) for name, omega in recipe.omegas.items()}


def span(text: str) -> tuple[str, tuple[float, float] | None]:
    """Return the name and the range of NAME or NAME=LOW:HIGH; None if there is no range.

    Raises:
        SessionError: it has another form.
    """
    from workbench.errors import SessionError

    name, equals, ends = text.partition("=")
    if not equals:
        return name, None
    low, _, high = ends.partition(":")
    try:
        return name, (float(low), float(high))
    except ValueError:
        raise SessionError(
            f"--vary is {text!r}, expected NAME or NAME=LOW:HIGH such as density=0.1:0.9."
        ) from None


def bench_of(tasks: str, suite: str, limit: int | None) -> "TaskAim | None":
    """Return the benchmark that the options name; None if they name none."""
    from workbench.search.wanted import TaskAim

    if not tasks and not suite and limit is None:
        return None
    return TaskAim(tuple(name for name in tasks.split(",") if name), suite, limit)


def method_of(recipe: "Recipe") -> "Choice":
    """Return the merge method of a recipe with its parameters.

    Raises:
        SessionError: a parameter is no single value for all models, or the method reads files.
    """
    from workbench.errors import SessionError
    from workbench.session.standing import Choice, file_only_methods

    if recipe.method in file_only_methods():
        raise SessionError(
            f"{recipe.method} reads statistics of each model, and a search cannot. "
            "Use another method, such as task_arithmetic."
        )
    own = {key for source in recipe.models for key in source.parameters} - {"weight"}
    for name, value in recipe.parameters.items():
        if not isinstance(value, bool | int | float | str):
            own.add(name)
    if own:
        raise SessionError(
            f"{', '.join(sorted(own))} of this recipe has several values, and a search gives all "
            "vectors and layers the same. Give one value under parameters."
        )
    return Choice(recipe.method, dict(recipe.parameters))


@contextmanager
def opened(
    recipe: "Recipe", add: str, data: Path, workdir: Path
) -> "Iterator[tuple[Session, Models]]":
    """Open a session with the models of a recipe, and perhaps one more.

    Raises:
        SessionError: the recipe has no base, or has slices or filters.
    """
    from workbench.errors import SessionError
    from workbench.session.opening import open_models
    from workbench.session.session import Session

    if recipe.slices or recipe.include or recipe.exclude:
        raise SessionError(
            "a search composes whole vectors, and this recipe has slices or filters of tensors."
        )
    if recipe.base is None:
        raise SessionError("a search moves ω of vectors over a base, and this recipe has no base.")
    with resolver() as located:
        base = located(recipe.base)
        checkpoints: list[tuple[Path, str | None]] = [
            (located(each.lora or each.location), each.name) for each in recipe.models
        ]
        checkpoints += [(located(add), None)] if add else []
    models = open_models(base, checkpoints, data, vocabulary=recipe.vocabulary)
    session = Session([base, *(path for path, _ in checkpoints), data], workdir)
    try:
        session.use(models)
        yield session, models
    finally:
        session.close()
