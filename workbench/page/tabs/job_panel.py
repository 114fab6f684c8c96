"""The panel of a job on every tab: state, progress, time left and the end of its log."""

from __future__ import annotations

from markupsafe import Markup

from plumbing import units
from workbench import commands
from workbench.page.tabs import markup
from workbench.session.job_table import Job
from workbench.session.session import Session

STATES = {
    "queued": "waiting",
    "running": "running",
    "cancelling": "stopping",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted by a server stop",
}


def panel(session: Session, kind: str, empty: str) -> Markup:
    """Returns the newest job of a kind as HTML, or the message `empty` if there is none."""
    return newest(session, kind) or markup.message(empty)


def newest(session: Session, kind: str) -> Markup:
    """Returns the newest job of a kind as HTML, or nothing if there is none."""
    jobs = session.jobs.recent(kind, limit=1)
    return job_html(session, jobs[0]) if jobs else Markup("")


def job_html(session: Session, job: Job) -> Markup:
    """Returns one job as HTML."""
    left, tail = session.jobs.left(job), session.jobs.tail(job.id)
    facts = [f"{job.share * 100:.0f} %"] if job.state in ("running", "cancelling") else []
    facts += [job.message] if job.message else []
    facts += [f"{units.seconds(job.seconds())} so far"] if job.state == "running" else []
    facts += [f"about {units.seconds(left)} left"] if left else []
    facts += [f"took {units.seconds(job.seconds())}"] if job.finished and job.started else []
    # A job may count less work than it announced, so the bar of a finished one is full by rule.
    share = 100.0 if job.state == "done" else job.share * 100
    bar = Markup(
        '<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        'aria-valuenow="{:.0f}" aria-label="{}"><i style="width:{:.1f}%"></i></div>'
    ).format(share, f"Progress of {job.kind} {job.id}", share)
    log = Markup('<details><summary>log</summary><pre tabindex="0">{}</pre></details>').format(
        "\n".join(tail)
    )
    return Markup(
        '<section class="job {}" data-job="{}" data-state="{}" aria-live="polite">'
        "<header><b>{}</b><span>{}</span></header>{}<p>{}</p>{}{}{}</section>"
    ).format(
        job.state,
        job.id,
        job.state,
        STATES[job.state],
        job.title,
        bar,
        " · ".join(facts),
        markup.message(job.error, "problem") if job.error else "",
        result_html(job),
        log if tail else "",
    )


def result_html(job: Job) -> Markup:
    """Returns the result of a finished job as HTML; nothing for any other job."""
    if job.state != "done":
        return Markup("")
    if job.kind == "export":
        return Markup('<p class="tick">Complete and verified: <code>{}</code> {}</p>').format(
            commands.display_path(job.result), markup.copier("copy path", job.result)
        )
    return Markup('<p class="tick">{}</p>').format(job.result)
