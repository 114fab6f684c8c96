"""Work that runs in the background, one file per kind: submit(session, ...) starts it."""
