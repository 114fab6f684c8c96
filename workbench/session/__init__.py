"""The open models and what is done with them: composing, measuring, generating, jobs."""
