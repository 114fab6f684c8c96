"""Training plans as the application handles them: forms, files, recorded runs, speed."""
