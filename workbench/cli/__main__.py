"""`python -m workbench.cli` is `dem`: what the page starts."""

from workbench.cli import run

if __name__ == "__main__":
    run()
