"""Background jobs, one file per kind; `submit(session, ...)` of each file starts one."""
