"""The route of files that answer questions about data: selections, tables, results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response

from workbench.errors import SessionError
from workbench.influence_runs.data_answers import files
from workbench.influence_runs.data_settings import KINDS

if TYPE_CHECKING:
    from workbench.session.session import Session


def add_data_files(router: APIRouter, session: Session) -> None:
    """Adds the route that downloads a file of a run to those of the live line.

    GET /live/data/QUESTION/NAME/FILE    only files of its answer, as an attachment
    """

    @router.get("/data/{question}/{name}/{file}")
    def data_file(question: str, name: str, file: str) -> Response:
        try:
            listed = files(session.workdir, question, name) if question in KINDS else {}
        except SessionError:  # a name that no run can have
            listed = {}
        found = listed.get(file)
        if found is None:
            raise HTTPException(status_code=404, detail=f"There is no {file} of {name}.")
        # As an attachment: a text of an example must not become a page of this site.
        return FileResponse(found, filename=file, headers={"cache-control": "no-store"})
