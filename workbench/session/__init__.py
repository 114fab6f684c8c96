"""The open models and all that happens to them: composing, measuring, generating, jobs."""
